"""The frames of one provider's stream."""

from __future__ import annotations

import json
from typing import Any, Protocol

from tests.fakes.asked import Asked
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall


class FakeStream(Protocol):
    """Writes one stream; each answer has its own."""

    content_type: str

    def __init__(self, asked: Asked) -> None: ...
    def opening(self) -> list[bytes]: ...
    def noise(self) -> list[bytes]:
        """Frames without content, as this provider mixes them in."""
        ...

    def reasoning(self, text: str) -> list[bytes]: ...
    def text(self, text: str) -> list[bytes]: ...
    def tool_call(self, index: int, call: ToolCall) -> list[bytes]: ...
    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        """The terminal events."""
        ...

    def error(self, kind: Kind) -> bytes:
        """An error inside the stream."""
        ...

    def malformed(self) -> bytes: ...


def event(data: Any, name: str = "") -> bytes:
    """A server-sent event with *data* as JSON."""
    text = data if isinstance(data, str) else _json(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _json(data: Any) -> str:
    """Escapes only what must be: half a character cannot be encoded."""
    text = json.dumps(data, ensure_ascii=False)
    has_half = any("\ud800" <= character <= "\udfff" for character in text)
    return json.dumps(data) if has_half else text


def halves(text: str) -> tuple[str, str]:
    """A call's arguments as a provider streams them: in pieces."""
    return text[: len(text) // 2], text[len(text) // 2 :]
