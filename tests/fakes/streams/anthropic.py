"""Anthropic's messages."""

from __future__ import annotations

from typing import Any

from tests.fakes.asked import Asked
from tests.fakes.refusals import error_body
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall
from tests.fakes.streams.stream import event, halves

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class AnthropicStream:
    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._index = -1
        self._block = ""

    def opening(self) -> list[bytes]:
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        return [_event("message_start", message=message)]

    def noise(self) -> list[bytes]:
        return [_event("ping"), _event("something_new", detail={"x": 1})]

    def reasoning(self, text: str) -> list[bytes]:
        delta = {"type": "thinking_delta", "thinking": text}
        return [*self._open("thinking", thinking="", signature=""), self._delta(delta)]

    def text(self, text: str) -> list[bytes]:
        return [*self._open("text", text=""), self._delta({"type": "text_delta", "text": text})]

    def tool_call(self, index: int, call: ToolCall) -> list[bytes]:
        opened = self._open("tool_use", call.id, id=call.id, name=call.name, input={})
        deltas = [{"type": "input_json_delta", "partial_json": a} for a in halves(call.arguments)]
        return [*opened, *map(self._delta, deltas)]

    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        reason = "stop_sequence" if reply.stop else _STOP_REASONS[reply.finish]
        delta = {"stop_reason": reason, "stop_sequence": reply.stop}
        usage: dict[str, int] = {"output_tokens": 0}
        if tokens is not None:
            usage = {
                "input_tokens": tokens.prompt - tokens.cached,
                "cache_read_input_tokens": tokens.cached,
                "cache_creation_input_tokens": 0,
                "output_tokens": tokens.completion,
            }
        ended = _event("message_delta", delta=delta, usage=usage)
        return [*self._close(), ended, _event("message_stop")]

    def error(self, kind: Kind) -> bytes:
        return event(error_body("anthropic", kind), "error")

    def malformed(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","ind\n\n'

    def _open(self, block: str, label: str = "", **fields: Any) -> list[bytes]:
        """The frames that open a block of this kind, unless it is open."""
        if self._block == block + label:
            return []
        frames = self._close()
        self._index += 1
        self._block = block + label
        shown = {"type": block, **fields}
        return [*frames, _event("content_block_start", index=self._index, content_block=shown)]

    def _close(self) -> list[bytes]:
        closed = [_event("content_block_stop", index=self._index)] if self._block else []
        self._block = ""
        return closed

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(name: str, **fields: Any) -> bytes:
    return event({"type": name, **fields}, name)
