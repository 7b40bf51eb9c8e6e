"""Answers and errors in Gemini's shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    Failed,
    Handoff,
    ProviderFailed,
    Replace,
    Seam,
    StreamEvent,
)
from spillover.edge_server.wire import handoff, sse
from spillover.edge_server.wire.dialect import (
    CallBuffer,
    Choice,
    StreamEncoder,
    WholeEncoder,
    arguments_object,
    check_complete,
    failure,
)
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import progress, waiting
from spillover.runtime.events import (
    Delta,
    Finished,
    Loading,
    Prefilling,
    Queued,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from spillover.runtime.request import ToolCall
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_REASONS = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}


class Told(Struct, frozen=True, kw_only=True):
    """What an answer says besides its text."""

    id: str
    model: str
    n: int
    thoughts: bool
    """Show reasoning."""
    logprobs: bool
    events: bool = False
    """Send handoffs and what belongs to them, as chunks without candidates."""
    progress: bool = False
    """Send how much of the prompt has been read, in the same way."""


def error_body(error: WireError) -> bytes:
    """{"error": {…}}, for whole bodies and events alike."""
    status = _STATUSES.get(error.status)
    if status is None:
        status = "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT"
    message = error.in_words(
        "The input token count ({n}) exceeds the maximum number of tokens allowed ({most})."
    )
    return _json({"error": {"code": error.status, "message": message, "status": status}})


def text_part(text: str) -> dict[str, Any]:
    return {"text": valid_text(text)}


def thought_part(text: str) -> dict[str, Any]:
    return {"text": valid_text(text), "thought": True}


def call_part(call: ToolCall) -> dict[str, Any]:
    function = {"id": call.id, "name": call.name, "args": arguments_object(call)}
    return {"functionCall": function}


def candidate(index: int, parts: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": parts}, "index": index, **fields}


def finish_reason(event: Finished) -> str:
    """Why an answer ended. Raises WireError when it is not complete."""
    check_complete(event)
    return _REASONS.get(event.reason, "STOP")


def usage(finished: Mapping[int, Finished]) -> dict[str, Any]:
    """The usageMetadata of all candidates, which share a prompt."""
    usages = [event.usage for event in finished.values()]
    if not usages:
        return {}
    n_prompt = usages[0].prompt_tokens
    n_thoughts = sum(each.reasoning_tokens for each in usages)
    n_all = sum(each.completion_tokens for each in usages)
    legs = [handoff.leg(leg) for each in usages for leg in each.legs]
    return {
        "promptTokenCount": n_prompt,
        "cachedContentTokenCount": usages[0].cached_tokens,
        "candidatesTokenCount": n_all - n_thoughts,
        "thoughtsTokenCount": n_thoughts,
        "totalTokenCount": n_prompt + n_all,
        **({"byLeg": legs} if legs else {}),
    }


def logprobs_result(records: list[TokenLogprob]) -> dict[str, Any]:
    return {
        "logprobsResult": {
            "chosenCandidates": [_scored(record) for record in records],
            "topCandidates": [
                {"candidates": [_scored(top) for top in record.top]} for record in records
            ],
        },
        "avgLogprobs": sum(record.logprob for record in records) / max(len(records), 1),
    }


def _scored(record: TokenLogprob | TopLogprob) -> dict[str, Any]:
    token = record.token.decode("utf-8", "replace")
    return {"token": token, "tokenId": record.token_id, "logProbability": record.logprob}


class GeminiStream(StreamEncoder):
    """Chunks as server-sent events. Its clients take comments for data, so there are none."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told
        self._model = told.model
        self._calls: defaultdict[int, CallBuffer] = defaultdict(CallBuffer)
        self._finished: dict[int, Finished] = {}

    def silence(self) -> bytes:
        return self.empty_event() if self.keep_alive == "event" else b""

    def empty_event(self) -> bytes:
        return self._chunk([])

    def error_event(self, error: WireError) -> bytes:
        return self._framed(error_body(error))

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta(text=text) if text or event.logprobs:
                scores = logprobs_result(list(event.logprobs)) if event.logprobs else {}
                return self._chunk([candidate(event.choice, [text_part(text)], **scores)])
            case ReasoningDelta(text=text) if text and self._told.thoughts:
                return self._chunk([candidate(event.choice, [thought_part(text)])])
            case ToolCallDelta():
                calls = self._calls[event.choice].add(event)
                parts = [call_part(call) for call in calls]
                return self._chunk([candidate(event.choice, parts)]) if parts else b""
            case Finished():
                return self._finish(event)
            case Failed():
                return self.fail(failure(event))
            case Prefilling() if self._told.progress:
                return self._chunk([], promptProgress=progress(event))
            case Loading() if self._told.progress:
                return self._chunk([], **waiting(event))
            case Queued() if self._told.progress:
                return self._chunk([], queuePosition=event.position)
            case Handoff() | Seam() | Replace():
                return self._routed(event)
            case ProviderFailed() | ConsentAsked() | ConsentAnswered():
                return self._routed(event)
        return b""

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        if isinstance(event, Handoff):
            self._model = event.target.model
        if not self._told.events:
            return b""
        return self._chunk([], spillover=handoff.named(event)[1])

    def _finish(self, event: Finished) -> bytes:
        try:
            reason = finish_reason(event)
        except WireError as error:
            return self.fail(error)
        self._finished[event.choice] = event
        parts = [call_part(call) for call in self._calls[event.choice].rest()]
        ended = candidate(event.choice, parts, finishReason=reason)
        return self._chunk([ended], usageMetadata=usage(self._finished))

    def _chunk(self, candidates: list[dict[str, Any]], **fields: Any) -> bytes:
        body = {
            "candidates": candidates,
            **fields,
            "modelVersion": self._model,
            "responseId": self._told.id,
        }
        return self._framed(_json(body))

    def _framed(self, body: bytes) -> bytes:
        return sse.encode(body)


class GeminiArray(GeminiStream):
    """The same as one array of JSON, which grows."""

    headers: ClassVar[Mapping[str, str]] = {
        "Content-Type": "application/json",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._begun = False

    def _framed(self, body: bytes) -> bytes:
        before = b",\r\n" if self._begun else b"["
        self._begun = True
        return before + body

    def end(self) -> bytes:
        return b"" if self._failed else b"]" if self._begun else b"[]"

    def fail(self, error: WireError) -> bytes:
        return super().fail(error) + b"]"


class GeminiWhole(WholeEncoder):
    """One response object."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__([Choice() for _ in range(told.n)])
        self._told = told

    def body(self) -> bytes:
        return _json(
            {
                "candidates": [self._candidate(index) for index in range(self._told.n)],
                "usageMetadata": usage(self.finished),
                "modelVersion": self.model or self._told.model,
                "responseId": self._told.id,
            }
        )

    def _candidate(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        parts = []
        if choice.reasoning and self._told.thoughts:
            parts.append(thought_part("".join(choice.reasoning)))
        if text := "".join(choice.text):
            parts.append(text_part(text))
        parts += [call_part(call) for call in choice.calls()]
        scores = logprobs_result(choice.logprobs) if self._told.logprobs else {}
        return candidate(index, parts, finishReason=finish_reason(self.finished[index]), **scores)


def gemini_model(name: str, description: str, n_ctx: int) -> dict[str, Any]:
    """The model as Gemini lists it."""
    return {
        "name": f"models/{name}",
        "baseModelId": name,
        "version": "1",
        "displayName": name,
        "description": description,
        "inputTokenLimit": n_ctx,
        "outputTokenLimit": n_ctx,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
