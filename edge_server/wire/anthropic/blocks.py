"""Anthropic's conversations: blocks of content become messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.content import ContentParts
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
    tool_name: str | None = None
    content: Content | dict[str, Any] = None
    is_error: bool | None = None
    title: str | None = None
    source: Any = None

    def inner(self, param: str) -> Content:
        """Its content, or a 400: only blocks of Anthropic's own servers hold an object."""
        if isinstance(self.content, dict):
            raise bad_request(f"{param}.content must be a text or blocks", f"{param}.content")
        return self.content


Content: TypeAlias = str | tuple[Block, ...] | None


class MessageBody(Struct, frozen=True, kw_only=True):
    role: str
    content: Content = None


def messages_of(system: Content, messages: tuple[MessageBody, ...]) -> tuple[dict[str, Any], ...]:
    """The messages of a GenerationRequest, or a 400 that names the block that cannot be read."""
    try:
        turns = [turn for i, body in enumerate(messages) for turn in _turns(body, f"messages[{i}]")]
        if text := _system(system):
            turns.insert(0, {"role": "system", "content": text})
    except RecursionError as error:
        raise bad_request("the messages are nested too deeply") from error
    return tuple(turns)


def _system(system: Content) -> str:
    blocks = (Block(type="text", text=system),) if isinstance(system, str) else system or ()
    texts = [_text(block, f"system[{i}]") for i, block in enumerate(blocks)]
    if texts and texts[0].startswith(BILLING):
        texts[0] = texts[0].partition("\n")[2]
    return "\n".join(filter(None, texts))


def _turns(body: MessageBody, param: str) -> Iterator[dict[str, Any]]:
    if body.role == "assistant":
        yield _assistant(body.content)
    elif body.role == "user":
        yield from _user(body.content, f"{param}.content")
    elif body.role == "system":
        yield {"role": "system", **_read(body.content, f"{param}.content", ContentParts())}
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
        parts = ContentParts("Error: " if block.is_error else "")
        result = _read(block.inner(f"{param}[{i}]"), f"{param}[{i}].content", parts)
        yield {"role": "tool", "tool_call_id": block.tool_use_id, **result}
    if len(blocks) > len(results) or not results:
        yield {"role": "user", **_read(content, param, ContentParts())}


def _read(content: Content, param: str, parts: ContentParts) -> dict[str, Any]:
    """The fields of a message with all blocks but the results of calls."""
    if isinstance(content, str):
        parts.add_text(content)
        return parts.fields
    for i, block in enumerate(content or ()):
        if block.type == "image":
            _image(block.source, parts, f"{param}[{i}].source")
        elif block.type != "tool_result":
            parts.add_text(_text(block, f"{param}[{i}]"))
    return parts.fields


def _image(source: Any, parts: ContentParts, param: str) -> None:
    match source:
        case {"type": "base64", "data": data}:
            parts.add_base64(data, f"{param}.data")
        case {"type": "url", "url": url}:
            parts.add_url(url, f"{param}.url")
        case _:
            raise bad_request(f"{param} must be of the type base64 or url", param)


def _text(block: Block, param: str) -> str:
    """The text of a block, or a 400."""
    if block.type == "text":
        return block.text or ""
    if block.type == "search_result":
        return f"{block.title or ''}\n{_joined(block.inner(param), f'{param}.content')}"
    if block.type == "tool_reference":
        return block.tool_name or ""
    if block.type == "document":
        return _document(block, param)
    reason = f"this server reads only blocks of text and images, not {block.type!r}"
    raise bad_request(reason, param)


def _joined(content: Content, param: str) -> str:
    if not isinstance(content, tuple):
        return content or ""
    return "\n".join(_text(block, f"{param}[{i}]") for i, block in enumerate(content))


def _document(block: Block, param: str) -> str:
    match block.source:
        case {"type": "text", "data": str(text)} | {"type": "content", "content": str(text)}:
            pass
        case {"type": "content", "content": list(parts)}:
            name = f"{param}.source.content"
            try:
                blocks = msgspec.convert(parts, tuple[Block, ...])
            except msgspec.ValidationError as error:
                raise bad_request(f"{name}: {error}", name) from error
            text = _joined(blocks, name)
        case _:
            raise bad_request("this model reads only documents of text", f"{param}.source")
    return f"{block.title}\n{text}" if block.title else text
