"""The stream of a chat completion.

The answer is complete when a finish_reason has come. Usage and "[DONE]" may follow; they are lost
when the stream breaks off between them, which does no harm.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.classify import unknown_reason
from spillover.cloud_fallback.providers.dialects.decoding import MAX_TOOL_CALLS, Count
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Part, Reasons
from spillover.cloud_fallback.providers.dialects.encoding import HttpRequest

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


class OpenAIDecoder(Decoder):
    """Reads the first choice of one streamed chat completion."""

    reasons: ClassVar[Reasons] = {
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

    def __init__(self, provider: str, sent: HttpRequest | None, *, echoes: bool) -> None:
        super().__init__(provider, sent, echoes=echoes)
        self._call_ids: dict[int, str] = {}
        self._stops = sent.stop if sent else ()
        self._refused = False

    def feed(self, frame: Frame) -> list[Part]:
        self.is_done = self.is_done or frame.data.strip() == b"[DONE]"
        return super().feed(frame)

    def read(self, frame: Frame) -> list[Part]:
        if frame.name in _SIGNS_OF_LIFE:
            return []
        chunk = self.json(frame, _Chunk)
        if chunk.error is not None or chunk.object == "error" or frame.name == "error":
            raise self.error(self.json(frame, object))
        self.name_model(chunk.model)
        self.calls.name_answer(chunk.id)
        if chunk.usage is not None:
            self._count(chunk.usage)
        parts: list[Part] = []
        for choice in chunk.choices or ():
            if choice.index == 0:
                parts += self._choice(choice)
        return parts

    def _count(self, usage: _Usage) -> None:
        prompt = usage.prompt_tokens_details or _PromptDetails()
        completion = usage.completion_tokens_details or _CompletionDetails()
        cached = prompt.cached_tokens or usage.prompt_cache_hit_tokens
        reasoning = completion.reasoning_tokens
        self.count(usage.prompt_tokens, usage.completion_tokens, cached, reasoning)

    def _choice(self, choice: _Choice) -> list[Part]:
        parts = self._delta(choice.delta) if choice.delta else []
        if choice.finish_reason:
            if choice.finish_reason not in self.reasons:
                raise unknown_reason(self.provider)
            if choice.stop_reason in self._stops:
                self.stop = choice.stop_reason
            parts += self.finish("content_filter" if self._refused else choice.finish_reason)
        return parts

    def _delta(self, delta: _Delta) -> list[Part]:
        reasoning, text = _texts(delta.content)
        reasoning = delta.reasoning_content or delta.reasoning or reasoning
        if delta.refusal:
            self._refused = True
            text += delta.refusal
        parts = self.text(text, reasoning)
        for call in delta.tool_calls or ():
            parts += self._call(call)
        return parts

    def _call(self, call: _ToolCall) -> list[Part]:
        function = call.function or _Function()
        arguments = function.arguments or ""
        key = self._key(call)
        if key in self.calls:
            return [*self.calls.add(key, arguments)]
        self._call_ids.setdefault(key, call.id or "")
        if not function.name and not arguments and len(self._call_ids) <= MAX_TOOL_CALLS:
            return []  # the name may still come
        call_id = self._call_ids[key]
        return [self.calls.open(key, id=call_id, name=function.name, arguments=arguments)]

    def _key(self, call: _ToolCall) -> int:
        """The number of *call*. Some servers leave the index out, or give every call index 0: a
        new id begins a new call."""
        known = call.index if call.index is not None else max(len(self.calls) - 1, 0)
        if call.id and self._call_ids.get(known, call.id) not in ("", call.id):
            same = [key for key, id in self._call_ids.items() if id == call.id]
            return same[0] if same else max(self._call_ids) + 1
        return known


def _texts(content: str | tuple[_Piece, ...] | None) -> tuple[str, str]:
    """(reasoning, text) of a delta's content."""
    if not isinstance(content, tuple):
        return "", content or ""
    reasoning = "".join(_reasoning(piece) for piece in content if piece.thinking is not None)
    return reasoning, "".join(piece.text or "" for piece in content if piece.thinking is None)


def _reasoning(piece: _Piece) -> str:
    if isinstance(piece.thinking, str):
        return piece.thinking
    return "".join(part.text or "" for part in piece.thinking or ())
