"""The stream of Gemini's streamGenerateContent.

It has no event names and no last word: an answer is complete when a finishReason has come and the
stream ends. Older models put a finishReason on every frame, so it alone is no end. A stream that
fails may end with a bare JSON object instead of an event.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import ContentBlocked
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
from spillover.cloud_fallback.providers.dialects.failure import read_event, read_tail
from spillover.cloud_fallback.providers.dialects.frames import Count, FrameReader
from spillover.cloud_fallback.providers.dialects.prefilled import PrefilledText
from spillover.cloud_fallback.providers.dialects.signatures import Signatures
from spillover.cloud_fallback.providers.dialects.tool_calls import ToolCalls
from spillover.cloud_fallback.providers.dialects.words import words
from spillover.runtime.events import FinishReason

_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
_UNFINISHED_EVENT = re.compile(rb"(?m)^data:")


class _FunctionCall(Struct, rename="camel"):
    name: str = ""
    id: str | None = None
    args: dict[str, Any] | None = None


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _FunctionCall | None = None
    thought_signature: str | None = None


class _Content(Struct, rename="camel"):
    parts: tuple[_Part, ...] | None = None


class _Candidate(Struct, rename="camel"):
    index: Count | None = None
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class _Usage(Struct, rename="camel"):
    prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None


class _Chunk(Struct, rename="camel"):
    candidates: tuple[_Candidate, ...] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


class GeminiDecoder:
    """Reads the first candidate of one streamed answer."""

    is_done = False
    is_complete = False
    """Only the stream's end tells."""

    def __init__(
        self, provider: str, sent: HttpRequest | None, signatures: Signatures | None = None
    ) -> None:
        """*signatures*: where those of tool calls are kept."""
        self._provider = provider
        self._signatures = signatures
        self._frames = FrameReader(provider)
        self._text = PrefilledText(sent)
        self._calls = ToolCalls(provider)
        self._reason: str | None = None
        self._usage: ProviderUsage | None = None
        self._model: str | None = None

    def feed(self, frame: Frame) -> list[Part]:
        if frame.data.strip() in (b"", b"[DONE]"):  # some gateways add the latter
            return []
        chunk = self._frames.read(frame.data, _Chunk)
        if chunk.error is not None:
            raise error_of(self._provider, read_event(chunk.error))
        self._note(chunk)
        parts: list[Part] = []
        for candidate in chunk.candidates or ():
            if not candidate.index:
                parts += self._candidate(candidate)
        return parts

    def _note(self, chunk: _Chunk) -> None:
        if chunk.model_version:
            self._model = chunk.model_version[:256]
        if chunk.response_id:
            self._calls.name_answer(chunk.response_id)
        if chunk.usage_metadata is not None:
            self._usage = _usage(chunk.usage_metadata)
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason and not chunk.candidates:
            raise ContentBlocked(self._provider, "the prompt was stopped by the content policy")

    def _candidate(self, candidate: _Candidate) -> list[Part]:
        parts: list[Part] = []
        for part in (candidate.content and candidate.content.parts) or ():
            parts += self._part(part)
        if candidate.finish_reason:
            self._reason = candidate.finish_reason
        return parts

    def _part(self, part: _Part) -> list[Part]:
        if part.function_call is not None:
            return [self._call(part.function_call, part.thought_signature)]
        if part.thought:
            return words("", part.text)
        return words(self._text.feed(part.text or ""))

    def _call(self, call: _FunctionCall, signature: str | None) -> Part:
        arguments = msgspec.json.encode(call.args or {}).decode()
        opened = self._calls.open(len(self._calls), id=call.id, name=call.name, arguments=arguments)
        is_one_of_a_kind = call.id or self._calls.has_answer_id
        if signature and opened.id and self._signatures is not None and is_one_of_a_kind:
            self._signatures.remember(opened.id, signature)
        return opened

    def end(self, tail: bytes = b"") -> End:
        failure = read_tail(tail)
        if failure is not None:
            raise error_of(self._provider, failure)
        if self._reason is None or _UNFINISHED_EVENT.search(tail):
            raise ended_without_terminal(self._provider, tail)
        return End(reason=self._end_reason(self._reason), usage=self._usage, model=self._model)

    def _end_reason(self, told: str) -> FinishReason:
        reason = _REASONS.get(told)
        if reason is None:
            raise unknown_end(self._provider)
        return "tool_calls" if reason == "stop" and len(self._calls) else reason


def _usage(usage: _Usage) -> ProviderUsage | None:
    if usage.prompt_token_count is None:
        return None
    thoughts = usage.thoughts_token_count or 0
    return ProviderUsage(
        prompt_tokens=usage.prompt_token_count,
        completion_tokens=(usage.candidates_token_count or 0) + thoughts,
        cached_tokens=usage.cached_content_token_count or 0,
        reasoning_tokens=thoughts,
    )
