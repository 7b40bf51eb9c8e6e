"""The events of Bedrock's ConverseStream, cut out of AWS's binary frames elsewhere.

The answer is complete with messageStop; the usage follows in the metadata.
"""

from __future__ import annotations

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.classes import (
    ended_without_terminal,
    error_of,
    unknown_end,
)
from spillover.cloud_fallback.providers.dialects.dialect import (
    End,
    Frame,
    HttpRequest,
    Part,
    ProviderUsage,
)
from spillover.cloud_fallback.providers.dialects.failure import read_event
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
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_KINDS = frozenset(
    (
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    )
)


class _ToolUse(Struct, rename="camel"):
    tool_use_id: str | None = None
    name: str | None = None
    input: str | None = None
    type: str | None = None


class _Reasoning(Struct):
    text: str | None = None


class _Block(Struct, rename="camel"):
    """What a block starts with, or what is added to it."""

    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _Usage(Struct, rename="camel"):
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count | None = None
    cache_write_input_tokens: Count | None = None


class _Event(Struct, rename="camel"):
    content_block_index: Count = 0
    start: _Block | None = None
    delta: _Block | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class BedrockDecoder:
    """Reads one streamed message."""

    def __init__(self, provider: str, sent: HttpRequest | None) -> None:
        self._provider = provider
        self._frames = FrameReader(provider)
        self._text = PrefilledText(sent)
        self._calls = ToolCalls(provider)
        self._reason: str | None = None
        self._usage: ProviderUsage | None = None
        self.is_done = False

    @property
    def is_complete(self) -> bool:
        return self._reason in _REASONS

    def feed(self, frame: Frame) -> list[Part]:
        if self.is_done:
            return []
        if frame.is_exception:
            raise error_of(self._provider, read_event(self._told(frame), frame.name))
        if frame.name not in _KINDS or not frame.data.strip():
            return []
        event = self._frames.read(frame.data, _Event)
        match frame.name:
            case "contentBlockStart" if event.start and event.start.tool_use:
                return self._open(event.content_block_index, event.start.tool_use)
            case "contentBlockDelta" if event.delta is not None:
                return self._add(event.content_block_index, event.delta)
            case "messageStop":
                self._reason = event.stop_reason or ""
                return [*self._calls.close()]
            case "metadata" if event.usage is not None:
                self._usage = _usage(event.usage)
                self.is_done = self._reason is not None
        return []

    def _told(self, frame: Frame) -> object:
        try:
            return self._frames.read(frame.data, object)
        except ProviderError:  # the name says enough
            return None

    def _open(self, index: int, call: _ToolUse) -> list[Part]:
        if call.type is not None:  # the provider runs it itself
            return []
        return [self._calls.open(index, id=call.tool_use_id, name=call.name)]

    def _add(self, index: int, delta: _Block) -> list[Part]:
        if delta.tool_use is not None:
            return [*self._calls.add(index, delta.tool_use.input or "")]
        if delta.reasoning_content is not None:
            return words("", delta.reasoning_content.text)
        return words(self._text.feed(delta.text or ""))

    def end(self, tail: bytes = b"") -> End:
        if self._reason is None:
            raise ended_without_terminal(self._provider, tail)
        if self._reason not in _REASONS:
            raise unknown_end(self._provider)
        return End(reason=_REASONS[self._reason], usage=self._usage)


def _usage(usage: _Usage) -> ProviderUsage:
    cached = usage.cache_read_input_tokens or 0
    return ProviderUsage(
        prompt_tokens=usage.input_tokens + cached + (usage.cache_write_input_tokens or 0),
        completion_tokens=usage.output_tokens,
        cached_tokens=cached,
    )
