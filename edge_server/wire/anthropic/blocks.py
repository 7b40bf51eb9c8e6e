"""Anthropic's conversations: blocks of content become messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.errors import bad_request

BILLING = "x-anthropic-billing-header:"
"""Claude Code puts this line first. It differs from request to request, so that no prompt would
share its beginning with the one before."""


class Block(Struct, frozen=True, kw_only=True):
    """A block of content of any type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Content = None
    is_error: bool | None = None
    title: str | None = None
    source: Any = None


Content: TypeAlias = str | tuple[Block, ...] | None


class MessageBody(Struct, frozen=True, kw_only=True):
    role: str
    content: Content = None


def messages_of(system: Content, messages: tuple[MessageBody, ...]) -> tuple[dict[str, Any], ...]:
    """The messages of a GenerationRequest, or a 400 that names the block that cannot be read."""
    turns = [turn for i, body in enumerate(messages) for turn in _turns(body, f"messages[{i}]")]
    if text := _system(system):
        turns.insert(0, {"role": "system", "content": text})
    return tuple(turns)


def _system(system: Content) -> str:
    texts = [text for _, text in _texts(system, "system")]
    if texts and texts[0].startswith(BILLING):
        texts[0] = texts[0].partition("\n")[2]
    return "\n".join(filter(None, texts))


def _turns(body: MessageBody, param: str) -> Iterator[dict[str, Any]]:
    if body.role == "assistant":
        yield _assistant(body.content)
    elif body.role == "user":
        yield from _user(body.content, f"{param}.content")
    elif body.role == "system":
        yield {"role": "system", "content": _joined(body.content, f"{param}.content")}
    else:
        raise bad_request(f"{param}.role must be user or assistant", f"{param}.role")


def _assistant(content: Content) -> dict[str, Any]:
    """An earlier answer. Blocks that only Anthropic's own servers can make are left out."""
    if not isinstance(content, tuple):
        return {"role": "assistant", "content": content or ""}
    thoughts = [block.thinking for block in content if block.type == "thinking" and block.thinking]
    return {
        "role": "assistant",
        "content": "".join(b.text or "" for b in content if b.type == "text"),
        "reasoning": "\n".join(thoughts) or None,
        "tool_calls": tuple(
            {
                "id": block.id or f"toolu_{place}",
                "name": block.name or "",
                "arguments": msgspec.json.encode(block.input or {}).decode(),
            }
            for place, block in enumerate(content)
            if block.type == "tool_use"
        ),
    }


def _user(content: Content, param: str) -> Iterator[dict[str, Any]]:
    """Results of calls come before the text of the same turn: templates want them next to the
    calls."""
    blocks = content if isinstance(content, tuple) else ()
    results = [(i, block) for i, block in enumerate(blocks) if block.type == "tool_result"]
    for i, block in results:
        text = _joined(block.content, f"{param}[{i}].content")
        yield {
            "role": "tool",
            "tool_call_id": block.tool_use_id,
            "content": f"Error: {text}" if block.is_error else text,
        }
    if len(blocks) > len(results) or not results:
        yield {"role": "user", "content": _joined(content, param)}


def _joined(content: Content, param: str) -> str:
    return "\n".join(text for _, text in _texts(content, param))


def _texts(content: Content, param: str) -> Iterator[tuple[int, str]]:
    """The texts of all blocks but the results of calls."""
    if isinstance(content, str):
        yield 0, content
        return
    for i, block in enumerate(content or ()):
        if block.type == "text":
            yield i, block.text or ""
        elif block.type == "search_result":
            yield i, f"{block.title or ''}\n{_joined(block.content, f'{param}[{i}].content')}"
        elif block.type == "document":
            yield i, _document(block, f"{param}[{i}]")
        elif block.type != "tool_result":
            reason = f"this model reads only blocks of text, not {block.type!r}"
            raise bad_request(reason, f"{param}[{i}]")


def _document(block: Block, param: str) -> str:
    match block.source:
        case {"type": "text", "data": str(text)} | {"type": "content", "content": str(text)}:
            pass
        case {"type": "content", "content": list(parts)}:
            text = _joined(msgspec.convert(parts, tuple[Block, ...]), f"{param}.source.content")
        case _:
            raise bad_request("this model reads only documents of text", f"{param}.source")
    return f"{block.title}\n{text}" if block.title else text
