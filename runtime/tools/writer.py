"""Writes calls as a model of a family would."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from spillover.runtime.request import Message, ToolCall
from spillover.runtime.tools.prompts import arguments_of
from spillover.runtime.tools.tool_format import ITEM, ToolFormat


def written(format: ToolFormat, calls: tuple[ToolCall, ...]) -> str:
    """The text of *calls*."""
    texts = [_call(format, call, index) for index, call in enumerate(calls)]
    if format.is_list:
        return f"{format.opening}[{', '.join(texts)}]{format.closing}"
    if format.is_sequence:
        between = "\n" if format.encoding == "object" else ""
        joined = "".join(f"{between}{text}" for text in texts)
        return f"{format.opening}{joined}{format.closing}"
    if not format.closing and format.encoding == "object":
        return format.opening + "; ".join(texts)
    edge = "\n" if format.closing and format.encoding == "object" else ""
    between = "\n" if format.closing or format.call_closing else ""
    return between.join(f"{format.opening}{edge}{text}{edge}{format.closing}" for text in texts)


def calls_as_text(messages: tuple[Message, ...], format: ToolFormat) -> tuple[Message, ...]:
    """*messages* whose calls are a part of their text, for templates that leave calls out."""
    return tuple(
        replace(
            message,
            content="\n".join(filter(None, (message.content, written(format, message.tool_calls)))),
            tool_calls=(),
        )
        if message.tool_calls
        else message
        for message in messages
    )


def _call(format: ToolFormat, call: ToolCall, index: int) -> str:
    arguments = arguments_of(call)
    if format.encoding == "object":
        numbered = {format.id_member: str(index)} if format.id_member else {}
        return _json({**numbered, format.name_member: call.name, format.arguments: arguments})
    gap = f":{index}" if format.gap.startswith(":") else ""
    if format.gap.startswith('"'):
        gap = f'" index="{index + 1}'
    if format.gap_parts:
        gap = " json"
    before = call.id + format.name_opening if format.name_opening else ""
    head = f"{format.call_opening}{before}{call.name}{gap}{format.separator}"
    if format.encoding == "json":
        return f"{head}{_json(arguments)}{format.call_closing}"
    if format.encoding == "tags":
        values = "".join(_tagged(format, key, value) for key, value in arguments.items())
    elif format.encoding == "elements":
        values = _elements(format, arguments)
    else:
        values = ", ".join(
            f"{key}{format.key_closing}{_literal(format, value)}"
            for key, value in arguments.items()
        )
    return f"{head}{values}{format.call_closing}"


def _tagged(format: ToolFormat, key: str, value: Any) -> str:
    is_text = isinstance(value, str)
    mark = ""
    if format.text_mark:
        others = format.other_marks.split("|")
        mark = format.text_mark if is_text else others[-1] if value is None else others[0]
    text = value if is_text else _json(value)
    if is_text and format.text_opening and any(sign in text for sign in "<&\n"):
        text = f"{format.text_opening}{text}{format.text_closing}"
    return (
        f"{format.key_opening}{key}{format.key_closing}{mark}{format.value_opening}"
        f"{text}{format.value_closing}"
    )


def _elements(format: ToolFormat, members: dict[str, Any]) -> str:
    return "".join(
        f"{format.key_opening}{key}{format.key_closing}{_inside(format, value)}"
        f"{format.value_closing}{key}{format.key_closing}"
        for key, value in members.items()
        if value is not None
    )


def _inside(format: ToolFormat, value: Any) -> str:
    if isinstance(value, dict):
        return _elements(format, value)
    if isinstance(value, list):
        return "".join(_elements(format, {ITEM: "" if v is None else v}) for v in value)
    return value if isinstance(value, str) else _json(value)


def _literal(format: ToolFormat, value: Any) -> str:
    quote = format.quotes[0]
    if quote == '"':
        return repr(value) if value is None or isinstance(value, bool) else _json(value)
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, list):
        return f"[{','.join(_literal(format, inner) for inner in value)}]"
    if isinstance(value, dict):
        members = (f"{key}:{_literal(format, inner)}" for key, inner in value.items())
        return f"{{{','.join(members)}}}"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
