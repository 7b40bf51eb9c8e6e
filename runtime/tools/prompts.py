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


def call_object(call: ToolCall) -> dict[str, Any]:
    """A call in the shape that templates expect: its arguments are an object."""
    function = {"name": call.name, "arguments": arguments_of(call)}
    return {"id": call.id, "type": "function", "function": function}


def arguments_of(call: ToolCall) -> Any:
    try:
        return msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return call.arguments


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


def one_call_each(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """*messages* with one call per message, each followed by its result, for templates that know
    no parallel calls."""
    split: list[Message] = []
    left = list(messages)
    while left:
        message = left.pop(0)
        if len(message.tool_calls) < 2:
            split.append(message)
            continue
        results = []
        while left and left[0].role == "tool":
            results.append(left.pop(0))
        for index, call in enumerate(message.tool_calls):
            content = message.content if index == 0 else ""
            split.append(msgspec.structs.replace(message, content=content, tool_calls=(call,)))
            split += [result for result in results if result.tool_call_id == call.id]
        ids = {call.id for call in message.tool_calls}
        split += [result for result in results if result.tool_call_id not in ids]
    return tuple(split)


def without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """*messages* with the system's message at the beginning of the user's first one."""
    if len(messages) < 2 or messages[0].role not in ("system", "developer"):
        return messages
    system, first, *others = messages
    if first.role != "user":
        return messages
    content = f"{system.content}\n\n{first.content}"
    return (msgspec.structs.replace(first, content=content), *others)


def as_text(messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    """*messages* with *tools* in the system's message, and calls and results as text."""
    merged: list[Message] = []
    for index, message in enumerate(messages):
        text_only = _plain(message)
        if index and message.role == messages[index - 1].role == "tool":
            # Results of parallel calls become one: most templates want turns to alternate.
            content = f"{merged.pop().content}\n{text_only.content}"
            text_only = msgspec.structs.replace(text_only, content=content)
        merged.append(text_only)
    plain = tuple(merged)
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
