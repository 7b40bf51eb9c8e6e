"""The stream of a chat completion.

The answer is complete when a finish_reason has come. Usage and "[DONE]" may follow; they are lost
when the stream breaks off between them, which does no harm.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

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
from spillover.cloud_fallback.providers.dialects.tool_calls import MAX_TOOL_CALLS, ToolCalls
from spillover.cloud_fallback.providers.dialects.words import words
from spillover.runtime.events import FinishReason

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_SIGNS_OF_LIFE = frozenset(("ping", "heartbeat", "keepalive", "keep-alive"))
"""Names of events that some servers send while nothing happens."""


class _Piece(Struct):
    """A part of a content that is a list, as Mistral's reasoning models send it."""

    type: str = ""
    text: str | None = None
    thinking: tuple[_Piece, ...] | str | None = None


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: Count | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | tuple[_Piece, ...] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None


class _Choice(Struct):
    index: Count = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    """The stop string that was found, where vLLM says so."""


class _PromptDetails(Struct):
    cached_tokens: Count | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: Count | None = None


class _Usage(Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's name for cached_tokens."""


class _Chunk(Struct):
    id: str | None = None
    object: str | None = None
    model: str | None = None
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    error: Any = None


class OpenAIDecoder:
    """Reads the first choice of one streamed chat completion."""

    def __init__(self, provider: str, sent: HttpRequest | None, *, echoes: bool = False) -> None:
        self._provider = provider
        self._frames = FrameReader(provider)
        self._text = PrefilledText(sent, echoes=echoes)
        self._calls = ToolCalls(provider)
        self._call_ids: dict[int, str] = {}
        self._reason: FinishReason | None = None
        self._stops = sent.stop if sent else ()
        self._stop: str | None = None
        self._refused = False
        self._usage: ProviderUsage | None = None
        self._model: str | None = None
        self.is_done = False

    @property
    def is_complete(self) -> bool:
        return self._reason is not None

    def feed(self, frame: Frame) -> list[Part]:
        data = frame.data.strip()
        self.is_done = self.is_done or data == b"[DONE]"
        if self.is_done or not data or frame.name in _SIGNS_OF_LIFE:
            return []
        chunk = self._frames.read(frame.data, _Chunk)
        if chunk.error is not None or chunk.object == "error" or frame.name == "error":
            raise self._frames.error(frame)
        self._note(chunk)
        parts: list[Part] = []
        for choice in chunk.choices or ():
            if choice.index == 0:
                parts += self._choice(choice)
        return parts

    def _note(self, chunk: _Chunk) -> None:
        if chunk.model:
            self._model = chunk.model[:256]
        if chunk.id:
            self._calls.name_answer(chunk.id)
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)

    def _choice(self, choice: _Choice) -> list[Part]:
        parts = self._delta(choice.delta) if choice.delta else []
        if choice.finish_reason:
            self._finish(choice.finish_reason)
            if choice.stop_reason in self._stops:
                self._stop = choice.stop_reason
            parts += words(self._text.flush())
            parts += self._calls.close()
        return parts

    def _delta(self, delta: _Delta) -> list[Part]:
        reasoning, text = _texts(delta.content)
        reasoning = delta.reasoning_content or delta.reasoning or reasoning
        if delta.refusal:
            self._refused = True
            text += delta.refusal
        parts = words(self._text.feed(text), reasoning)
        for call in delta.tool_calls or ():
            parts += self._call(call)
        return parts

    def _call(self, call: _ToolCall) -> list[Part]:
        function = call.function or _Function()
        arguments = function.arguments or ""
        key = self._key(call)
        if self._calls.has(key):
            return [*self._calls.add(key, arguments)]
        self._call_ids.setdefault(key, call.id or "")
        if not function.name and not arguments and len(self._call_ids) <= MAX_TOOL_CALLS:
            return []  # the name may still come
        call_id = self._call_ids[key]
        return [self._calls.open(key, id=call_id, name=function.name, arguments=arguments)]

    def _key(self, call: _ToolCall) -> int:
        """The number of *call*. Some servers leave the index out, or give every call index 0: a
        new id begins a new call."""
        n_calls = len(self._calls)
        known = call.index if call.index is not None else max(n_calls - 1, 0)
        if call.id and self._call_ids.get(known, call.id) not in ("", call.id):
            same = [key for key, id in self._call_ids.items() if id == call.id]
            return same[0] if same else max(self._call_ids) + 1
        return known

    def _finish(self, reason: str) -> None:
        if reason not in _REASONS:
            raise unknown_end(self._provider)
        self._reason = _REASONS[reason]

    def end(self, tail: bytes = b"") -> End:
        if self._reason is None:
            raise ended_without_terminal(self._provider, tail)
        return End(
            reason=self._end_reason(self._reason),
            stop=self._stop,
            usage=self._usage,
            model=self._model,
        )

    def _end_reason(self, reason: FinishReason) -> FinishReason:
        if self._refused:
            return "content_filter"
        if reason == "stop" and len(self._calls):  # as some servers say it
            return "tool_calls"
        return reason


def _texts(content: str | tuple[_Piece, ...] | None) -> tuple[str, str]:
    """(reasoning, text) of a delta's content."""
    if not isinstance(content, tuple):
        return "", content or ""
    reasoning = "".join(_thought(piece) for piece in content if piece.thinking is not None)
    return reasoning, "".join(piece.text or "" for piece in content if piece.thinking is None)


def _thought(piece: _Piece) -> str:
    if isinstance(piece.thinking, str):
        return piece.thinking
    return "".join(part.text or "" for part in piece.thinking or ())


def _usage(usage: _Usage) -> ProviderUsage | None:
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return ProviderUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=(prompt and prompt.cached_tokens) or usage.prompt_cache_hit_tokens or 0,
        reasoning_tokens=(completion and completion.reasoning_tokens) or 0,
    )
