"""Gemini's streamGenerateContent, in AI Studio and Vertex AI."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.asked import Asked
from tests.fakes.refusals import error_body
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall
from tests.fakes.streams.stream import event

_FINISH_REASONS = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}


class GeminiStream:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def opening(self) -> list[bytes]:
        return []

    def noise(self) -> list[bytes]:
        return [event({"modelVersion": self._asked.model, "responseId": "r1", "somethingNew": {}})]

    def reasoning(self, text: str) -> list[bytes]:
        return [self._parts({"text": text, "thought": True})]

    def text(self, text: str) -> list[bytes]:
        return [self._parts({"text": text})]

    def tool_call(self, index: int, call: ToolCall) -> list[bytes]:
        function = {"id": call.id, "name": call.name, "args": json.loads(call.arguments)}
        signed = {"thoughtSignature": f"signed-{call.id}"} if index == 0 else {}
        return [self._parts({"functionCall": function, **signed})]

    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        """The finish reason, in a frame without parts."""
        ended = self._candidate({"finishReason": _FINISH_REASONS[reply.finish], "index": 0})
        if tokens is not None:
            ended["usageMetadata"] = {
                "promptTokenCount": tokens.prompt,
                "cachedContentTokenCount": tokens.cached,
                "candidatesTokenCount": tokens.completion - tokens.reasoning,
                "thoughtsTokenCount": tokens.reasoning,
                "totalTokenCount": tokens.prompt + tokens.completion,
            }
        return [event(ended)]

    def error(self, kind: Kind) -> bytes:
        return event(error_body("gemini", kind))

    def malformed(self) -> bytes:
        return b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n'

    def _parts(self, *parts: dict[str, Any]) -> bytes:
        content = {"role": "model", "parts": list(parts)}
        return event(self._candidate({"content": content, "index": 0})).replace(b"\n", b"\r\n")

    def _candidate(self, candidate: dict[str, Any]) -> dict[str, Any]:
        shown = {"modelVersion": self._asked.model, "responseId": "r1"}
        return {"candidates": [candidate], **shown}
