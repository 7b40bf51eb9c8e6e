"""The stream of Cohere's chat. The answer is complete with message-end, unless that tells of a
failure; "[DONE]" may follow."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from spillover.cloud_fallback.errors import Overloaded
from spillover.cloud_fallback.providers.dialects.classes import (
    ended_without_terminal,
    error_of,
    unknown_end,
)
from spillover.cloud_fallback.providers.dialects.dialect import End, Frame, Part, ProviderUsage
from spillover.cloud_fallback.providers.dialects.failure import read_event
from spillover.cloud_fallback.providers.dialects.frames import Count, FrameReader
from spillover.cloud_fallback.providers.dialects.tool_calls import ToolCalls
from spillover.cloud_fallback.providers.dialects.words import words
from spillover.runtime.events import FinishReason

_REASONS: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
_KINDS = frozenset(
    (
        "message-start",
        "content-start",
        "content-delta",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
        "message-end",
    )
)


class _Content(Struct):
    text: str | None = None
    thinking: str | None = None


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(Struct):
    content: _Content | tuple[_Content, ...] | None = None
    """An empty list in message-start, an object later."""
    tool_calls: _ToolCall | tuple[_ToolCall, ...] | None = None
    tool_plan: str | None = None


_Amount = Annotated[float, Meta(ge=0, le=2**53)]


class _Tokens(Struct):
    input_tokens: _Amount | None = None
    output_tokens: _Amount | None = None


class _Usage(Struct):
    tokens: _Tokens | None = None
    billed_units: _Tokens | None = None
    cached_tokens: _Amount | None = None


class _Delta(Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Event(Struct):
    id: str | None = None
    index: Count = 0
    delta: _Delta | None = None


class CohereDecoder:
    """Reads one streamed chat answer."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._frames = FrameReader(provider)
        self._calls = ToolCalls(provider)
        self._reason: FinishReason | None = None
        self._usage: ProviderUsage | None = None
        self.is_done = False

    @property
    def is_complete(self) -> bool:
        return self._reason is not None

    def feed(self, frame: Frame) -> list[Part]:
        if self.is_done or frame.data.strip() in (b"", b"[DONE]"):
            return []
        kind = self._frames.kind(frame)
        if kind in ("", "error"):
            self._check(self._frames.read(frame.data, object), is_error=kind == "error")
        return self._event(kind, frame.data) if kind in _KINDS else []

    def _check(self, value: object, *, is_error: bool) -> None:
        """Raises the error that a frame without a type tells of, if it does."""
        is_told = isinstance(value, dict) and ("message" in value or "error" in value)
        if is_error or is_told:
            raise error_of(self._provider, read_event(value))

    def _event(self, kind: str, data: bytes) -> list[Part]:
        event = self._frames.read(data, _Event)
        delta = event.delta or _Delta()
        message = delta.message or _Message()
        match kind:
            case "message-start" if event.id:
                self._calls.name_answer(event.id)
            case "content-start" | "content-delta":
                return _words(message.content)
            case "tool-plan-delta":
                return words("", message.tool_plan)
            case "tool-call-start":
                return self._open(event.index, message.tool_calls)
            case "tool-call-delta":
                return self._add(event.index, message.tool_calls)
            case "message-end":
                return self._finish(delta)
        return []

    def _open(self, index: int, call: _ToolCall | tuple[_ToolCall, ...] | None) -> list[Part]:
        call = call if isinstance(call, _ToolCall) else _ToolCall()
        function = call.function or _Function()
        arguments = function.arguments or ""
        return [self._calls.open(index, id=call.id, name=function.name, arguments=arguments)]

    def _add(self, index: int, call: _ToolCall | tuple[_ToolCall, ...] | None) -> list[Part]:
        if not isinstance(call, _ToolCall) or call.function is None:
            return []
        return [*self._calls.add(index, call.function.arguments or "")]

    def _finish(self, delta: _Delta) -> list[Part]:
        told = delta.finish_reason or ""
        if told in ("ERROR", "TIMEOUT"):
            raise Overloaded(self._provider, f"the answer ended with {told}")
        if told not in _REASONS:
            raise unknown_end(self._provider)
        self._reason, self.is_done = _REASONS[told], True
        self._usage = _usage(delta.usage)
        return [*self._calls.close()]

    def end(self, tail: bytes = b"") -> End:
        if self._reason is None:
            raise ended_without_terminal(self._provider, tail)
        return End(reason=self._reason, usage=self._usage)


def _words(content: _Content | tuple[_Content, ...] | None) -> list[Part]:
    if not isinstance(content, _Content):
        return []
    return words(content.text or "", content.thinking)


def _usage(usage: _Usage | None) -> ProviderUsage | None:
    """The billed units, which leave out what Cohere adds to a prompt itself; else all tokens."""
    tokens = usage and (usage.billed_units or usage.tokens)
    if not tokens or tokens.input_tokens is None or tokens.output_tokens is None:
        return None
    return ProviderUsage(
        prompt_tokens=int(tokens.input_tokens),
        completion_tokens=int(tokens.output_tokens),
        cached_tokens=int((usage and usage.cached_tokens) or 0),
    )
