"""Tools in the prompts of models whose chat template has no place for them."""

from __future__ import annotations

import hashlib
import json
import string
from typing import Any

import msgspec

from spillover.runtime.request import Message, Tool, ToolCall

INTRODUCTION = (
    "You can call these functions:\n{tools}\n\n"
    "To call one, write its name and arguments as JSON between tags, and nothing else:\n"
    '<tool_call>\n{{"name": "the function", "arguments": {{"its": "arguments"}}}}\n</tool_call>'
)

_SHORT = string.digits + string.ascii_letters


def tool_object(tool: Tool) -> dict[str, Any]:
    """A tool in the shape that templates expect: OpenAI's."""
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """A call's arguments. A text that is no object, because it was cut or written by another model,
    is kept as the value of one argument."""
    try:
        value = msgspec.json.decode(call.arguments.strip() or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = call.arguments
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"arguments": value}


def with_short_ids(messages: tuple[Message, ...], n_chars: int) -> tuple[Message, ...]:
    """*messages* whose call ids have *n_chars* letters and digits, as some templates require:
    another writer's ids may be longer."""

    def short(call_id: str) -> str:
        if len(call_id) == n_chars and call_id.isascii() and call_id.isalnum():
            return call_id
        digest = hashlib.sha256(call_id.encode("utf-8", "replace")).digest()
        return "".join(_SHORT[byte % len(_SHORT)] for byte in digest[:n_chars])

    def changed(message: Message) -> Message:
        calls = tuple(
            msgspec.structs.replace(call, id=short(call.id)) for call in message.tool_calls
        )
        answered = message.tool_call_id
        return msgspec.structs.replace(
            message, tool_calls=calls, tool_call_id=None if answered is None else short(answered)
        )

    return tuple(map(changed, messages))


def as_text(messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    """*messages* with *tools* in the system's message, and calls and results as text."""
    turns: list[list[Message]] = []
    for index, message in enumerate(messages):
        text_only = _plain(message)
        if index and messages[index - 1].role == "tool" and text_only.role == "user":
            # Results and what the user says next become one: many templates want turns to
            # alternate.
            turns[-1].append(text_only)
        else:
            turns.append([text_only])
    plain = tuple(map(_joined, turns))
    if not tools:
        return plain
    listed = "\n".join(json.dumps(tool_object(t), ensure_ascii=False) for t in tools)
    text = INTRODUCTION.format(tools=listed)
    if plain and plain[0].role in ("system", "developer"):
        first = msgspec.structs.replace(plain[0], content=f"{plain[0].content}\n\n{text}")
        return (first, *plain[1:])
    return (Message(role="system", content=text), *plain)


def _joined(turn: list[Message]) -> Message:
    if len(turn) == 1:
        return turn[0]
    content = "\n".join(message.content for message in turn)
    return msgspec.structs.replace(turn[0], content=content)


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
