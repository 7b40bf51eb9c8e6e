"""OpenAI's chat completions, and Azure's with its filter annotations."""

from __future__ import annotations

from typing import Any

from tests.fakes.asked import Asked
from tests.fakes.refusals import error_body
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall
from tests.fakes.streams.stream import event, halves


class OpenAIStream:
    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def opening(self) -> list[bytes]:
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def noise(self) -> list[bytes]:
        return [b": OPENROUTER PROCESSING\n\n", event({"object": "chat.something.new", "x": 1})]

    def reasoning(self, text: str) -> list[bytes]:
        return [self._chunk({"reasoning_content": text})]

    def text(self, text: str) -> list[bytes]:
        return [self._chunk({"content": text})]

    def tool_call(self, index: int, call: ToolCall) -> list[bytes]:
        function = {"name": call.name, "arguments": ""}
        first = {"index": index, "id": call.id, "type": "function", "function": function}
        parts = [{"index": index, "function": {"arguments": a}} for a in halves(call.arguments)]
        return [self._chunk({"tool_calls": [part]}) for part in (first, *parts)]

    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        frames = [self._chunk({}, finish_reason=reply.finish)]
        if tokens is not None and self._asked.wants_usage:
            frames.append(event(self._envelope([], usage=_usage(tokens))))
        return [*frames, event("[DONE]")]

    def error(self, kind: Kind) -> bytes:
        return event(error_body(self._asked.dialect, kind))

    def malformed(self) -> bytes:
        return b'data: {"id":"chatcmpl-1","choices":[{"delta":{"con\n\n'

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None}
        if self._asked.dialect == "azure":
            choice["content_filter_results"] = {}
        return event(self._envelope([choice | {"finish_reason": finish_reason}]))

    def _envelope(self, choices: list[Any], usage: Any = None) -> dict[str, Any]:
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": self._asked.model or "gpt-fake",
            "system_fingerprint": None,
            "choices": choices,
            "usage": usage,
        }


class AzureStream(OpenAIStream):
    def opening(self) -> list[bytes]:
        nothing: dict[str, Any] = {"id": "", "model": "", "object": "", "created": 0, "choices": []}
        results = [{"prompt_index": 0, "content_filter_results": {}}]
        return [event(nothing | {"prompt_filter_results": results}), *super().opening()]

    def noise(self) -> list[bytes]:
        """The asynchronous filter's late annotation."""
        offsets = {"check_offset": 0, "start_offset": 0, "end_offset": 5}
        choice = {
            "index": 0,
            "delta": {},
            "finish_reason": None,
            "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
            "content_filter_offsets": offsets,
        }
        return [event(self._envelope([choice]))]


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }
