"""Text Generation Inference's own generate_stream."""

from __future__ import annotations

import math

from tests.fakes.asked import Asked
from tests.fakes.refusals import error_body
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall
from tests.fakes.streams.stream import event

_FINISH_REASONS = {
    "stop": "eos_token",
    "length": "length",
    "tool_calls": "eos_token",
    "content_filter": "eos_token",
}


class TgiStream:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked) -> None:
        self._n = 0

    def opening(self) -> list[bytes]:
        return []

    def noise(self) -> list[bytes]:
        return [b": keep-alive\n\n"]

    def reasoning(self, text: str) -> list[bytes]:
        return self.text(text)

    def text(self, text: str) -> list[bytes]:
        return [self._token(text, special=False)]

    def tool_call(self, index: int, call: ToolCall) -> list[bytes]:
        return []

    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        """The last token carries the whole text and the details."""
        details = {
            "finish_reason": "stop_sequence" if reply.stop else _FINISH_REASONS[reply.finish],
            "generated_tokens": tokens.completion if tokens else self._n,
            "input_length": tokens.prompt if tokens else 0,
            "seed": None,
        }
        whole = "".join(reply.chunks)
        return [self._token("</s>", special=True, generated_text=whole, details=details)]

    def error(self, kind: Kind) -> bytes:
        return event(error_body("tgi", kind))

    def malformed(self) -> bytes:
        return b'data:{"index":3,"token":{"id":1,"te\n\n'

    def _token(self, text: str, *, special: bool, **fields: object) -> bytes:
        self._n += 1
        token = {"id": self._n, "text": text, "logprob": math.log(0.5), "special": special}
        ended: dict[str, object] = {"generated_text": None, "details": None} | fields
        frame = event({"index": self._n, "token": token, **ended})
        return frame.replace(b"data: ", b"data:", 1)
