"""Tools in the prompts of models whose chat template knows none."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from spillover.runtime.request import Message, Tool, ToolCall

INTRODUCTION = (
    "You can call these functions:\n{tools}\n\n"
    "To call one, write its name and arguments as JSON between tags, and nothing else:\n"
    '<tool_call>\n{{"name": "the function", "arguments": {{"its": "arguments"}}}}\n</tool_call>'
)


def tool_object(tool: Tool) -> dict[str, Any]:
    """A tool in the shape that templates expect: OpenAI's."""
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def call_object(call: ToolCall) -> dict[str, Any]:
    """A call in the shape that templates expect: the arguments are no text."""
    function = {"name": call.name, "arguments": arguments_of(call)}
    return {"id": call.id, "type": "function", "function": function}


def arguments_of(call: ToolCall) -> Any:
    try:
        return msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return call.arguments


def in_plain_words(messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    """*messages* with the tools in the system's, and with calls and results as text."""
    plain = tuple(map(_plain, messages))
    if not tools:
        return plain
    listed = "\n".join(json.dumps(tool_object(t), ensure_ascii=False) for t in tools)
    text = INTRODUCTION.format(tools=listed)
    if plain and plain[0].role in ("system", "developer"):
        first = msgspec.structs.replace(plain[0], content=f"{plain[0].content}\n\n{text}")
        return (first, *plain[1:])
    return (Message(role="system", content=text), *plain)


def _plain(message: Message) -> Message:
    if message.role == "tool":
        text = f"<tool_response>\n{message.content}\n</tool_response>"
        return Message(role="user", content=text)
    if not message.tool_calls:
        return message
    calls = [{"name": call.name, "arguments": arguments_of(call)} for call in message.tool_calls]
    texts = [f"<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in calls]
    content = "\n".join(filter(None, (message.content, *texts)))
    return msgspec.structs.replace(message, content=content, tool_calls=())
