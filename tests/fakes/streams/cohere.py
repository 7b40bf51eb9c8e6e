"""Cohere's chat, version 2."""

from __future__ import annotations

from typing import Any

from tests.fakes.asked import Asked
from tests.fakes.refusals import error_body
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall
from tests.fakes.streams.stream import event, halves

_FINISH_REASONS = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR",
}


class CohereStream:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked) -> None:
        self._index = -1
        self._block = ""

    def opening(self) -> list[bytes]:
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}
        return [event({"id": "c-1", "type": "message-start", "delta": {"message": message}})]

    def noise(self) -> list[bytes]:
        return [event({"type": "debug", "prompt": "…"})]

    def reasoning(self, text: str) -> list[bytes]:
        return [*self._open("thinking"), self._content({"thinking": text})]

    def text(self, text: str) -> list[bytes]:
        return [*self._open("text"), self._content({"text": text})]

    def tool_call(self, index: int, call: ToolCall) -> list[bytes]:
        function = {"name": call.name, "arguments": ""}
        shown = {"id": call.id, "type": "function", "function": function}
        frames = self._close()
        frames.append(_call("tool-call-start", index, shown))
        for part in halves(call.arguments):
            frames.append(_call("tool-call-delta", index, {"function": {"arguments": part}}))
        return [*frames, event({"type": "tool-call-end", "index": index})]

    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        reason = "STOP_SEQUENCE" if reply.stop else _FINISH_REASONS[reply.finish]
        delta: dict[str, Any] = {"finish_reason": reason}
        if tokens is not None:
            counts = {"input_tokens": tokens.prompt, "output_tokens": tokens.completion}
            delta["usage"] = {
                "billed_units": counts,
                "tokens": counts,
                "cached_tokens": tokens.cached,
            }
        ended = event({"type": "message-end", "id": "c-1", "delta": delta})
        return [*self._close(), ended, event("[DONE]")]

    def error(self, kind: Kind) -> bytes:
        """Cohere says it in the terminal event."""
        said = error_body("cohere", kind)["message"]
        delta = {"finish_reason": "ERROR", "error": said}
        return event({"type": "message-end", "id": "c-1", "delta": delta})

    def malformed(self) -> bytes:
        return b'data: {"type":"content-delta","ind\n\n'

    def _open(self, block: str) -> list[bytes]:
        if self._block == block:
            return []
        frames = self._close()
        self._index += 1
        self._block = block
        message = {"content": {"type": block, block: ""}}
        opened = {"type": "content-start", "index": self._index, "delta": {"message": message}}
        return [*frames, event(opened)]

    def _close(self) -> list[bytes]:
        closed = [event({"type": "content-end", "index": self._index})] if self._block else []
        self._block = ""
        return closed

    def _content(self, content: dict[str, str]) -> bytes:
        delta = {"message": {"content": content}}
        return event({"type": "content-delta", "index": self._index, "delta": delta})


def _call(kind: str, index: int, call: dict[str, Any]) -> bytes:
    return event({"type": kind, "index": index, "delta": {"message": {"tool_calls": call}}})
