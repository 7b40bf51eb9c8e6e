"""The stream of Anthropic's messages. The answer is complete with message_stop."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from spillover.cloud_fallback.errors import Truncated
from spillover.cloud_fallback.providers.dialects.classes import ended_without_terminal, unknown_end
from spillover.cloud_fallback.providers.dialects.dialect import (
    End,
    Frame,
    HttpRequest,
    Part,
    ProviderUsage,
)
from spillover.cloud_fallback.providers.dialects.frames import Count, FrameReader
from spillover.cloud_fallback.providers.dialects.prefilled import PrefilledText
from spillover.cloud_fallback.providers.dialects.tool_calls import ToolCalls
from spillover.cloud_fallback.providers.dialects.words import words
from spillover.runtime.events import FinishReason

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_KINDS = frozenset(
    (
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
    )
)


class _OutputDetails(Struct):
    thinking_tokens: Count | None = None


class _Usage(Struct):
    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(Struct):
    id: str = ""
    model: str | None = None
    usage: _Usage | None = None


class _Block(Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    to: Any = None
    """The model that goes on, in a block of the type "fallback"."""


class _Delta(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(Struct):
    index: Count = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


class AnthropicDecoder:
    """Reads one streamed message."""

    def __init__(self, provider: str, sent: HttpRequest | None) -> None:
        self._provider = provider
        self._frames = FrameReader(provider)
        self._text = PrefilledText(sent)
        self._calls = ToolCalls(provider)
        self._reason: str | None = None
        self._stop: str | None = None
        self._usage = _Usage()
        self._model: str | None = None
        self.is_done = False

    @property
    def is_complete(self) -> bool:
        return self.is_done and self._reason in _REASONS

    def feed(self, frame: Frame) -> list[Part]:
        if self.is_done or not frame.data.strip():
            return []
        kind = self._frames.kind(frame)
        if kind == "error":
            raise self._frames.error(frame)
        return self._event(kind, frame.data) if kind in _KINDS else []

    def _event(self, kind: str, data: bytes) -> list[Part]:
        event = self._frames.read(data, _Event)
        match kind:
            case "message_start" if event.message is not None:
                self._begin(event.message)
            case "content_block_start" if event.content_block is not None:
                return self._open(event.index, event.content_block)
            case "content_block_delta" if event.delta is not None:
                return self._add(event.index, event.delta)
            case "message_delta":
                return self._finish(event)
            case "message_stop":
                self.is_done = True
        return []

    def _begin(self, message: _Message) -> None:
        self._note_model(message.model)
        self._calls.name_answer(message.id)
        self._count(message.usage)

    def _count(self, usage: _Usage | None) -> None:
        """Counts are cumulative, and a later event may leave out what has not changed."""
        for name in _Usage.__struct_fields__:
            value = getattr(usage, name, None)
            if value is not None:
                setattr(self._usage, name, value)

    def _open(self, index: int, block: _Block) -> list[Part]:
        if block.type == "tool_use":
            return [self._calls.open(index, id=block.id, name=block.name)]
        if block.type == "fallback":
            self._note_model(block.to.get("model") if isinstance(block.to, dict) else block.to)
        return self._words(block.thinking, block.text)

    def _note_model(self, model: object) -> None:
        if isinstance(model, str) and model:
            self._model = model[:256]

    def _add(self, index: int, delta: _Delta) -> list[Part]:
        if delta.partial_json is not None:
            return [*self._calls.add(index, delta.partial_json)]
        return self._words(delta.thinking, delta.text)

    def _words(self, thinking: str | None, text: str | None) -> list[Part]:
        return words(self._text.feed(text or ""), thinking)

    def _finish(self, event: _Event) -> list[Part]:
        self._count(event.usage)
        if event.delta is None or event.delta.stop_reason is None:
            return []
        self._reason, self._stop = event.delta.stop_reason, event.delta.stop_sequence
        return [*self._calls.close()]

    def end(self, tail: bytes = b"") -> End:
        if not self.is_done or self._reason is None:
            raise ended_without_terminal(self._provider, tail)
        if self._reason == "pause_turn":
            raise Truncated(self._provider, "the model paused before its answer was complete")
        if self._reason not in _REASONS:
            raise unknown_end(self._provider)
        return End(
            reason=_REASONS[self._reason],
            stop=self._stop,
            usage=self._counted(),
            model=self._model,
        )

    def _counted(self) -> ProviderUsage | None:
        usage = self._usage
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = usage.cache_read_input_tokens or 0
        details = usage.output_tokens_details
        return ProviderUsage(
            prompt_tokens=usage.input_tokens + (usage.cache_creation_input_tokens or 0) + cached,
            completion_tokens=usage.output_tokens,
            cached_tokens=cached,
            reasoning_tokens=(details and details.thinking_tokens) or 0,
        )
