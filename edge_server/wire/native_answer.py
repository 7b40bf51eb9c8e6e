"""llama.cpp's own completion dialect: events to its stream and to its whole answers."""

from __future__ import annotations

from typing import Any

import msgspec

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.web import sse
from spillover.edge_server.wire.answer import progress, timings, valid_text
from spillover.edge_server.wire.errors import WireError, body_of
from spillover.edge_server.wire.native import NativeRequests, settings_of
from spillover.runtime.events import Delta, Finished, Prefilling, ReasoningDelta, TokenLogprob

_json = msgspec.json.Encoder().encode


class Shape:
    """What the chunks and the end of an answer have in common."""

    def __init__(
        self, requests: NativeRequests, model: str, n_ctx: int, *, stream: bool, tokens: bool
    ) -> None:
        self.requests = requests
        self.shows_tokens = tokens or stream
        self._model = model
        self._n_ctx = n_ctx
        self._stream = stream

    def end(self, event: Finished, content: str, tokens: list[int], text: str) -> dict[str, Any]:
        """The last object of a choice, whose whole answer is *text*."""
        usage = event.usage
        prompt = event.choice // self.requests.n_each
        fills = usage.prompt_tokens + usage.completion_tokens >= self._n_ctx
        return {
            "index": event.choice,
            "content": content,
            "tokens": tokens,
            "id_slot": -1,
            "stop": True,
            "model": self._model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": settings_of(
                self.requests.requests[prompt], self._model, self._n_ctx, stream=self._stream
            ),
            "prompt": self.requests.texts[prompt],
            "has_new_line": "\n" in text,
            "truncated": event.reason == "length" and fills,
            "stop_type": _stop_type(event),
            "stopping_word": event.stop or "",
            "tokens_cached": usage.cached_tokens,
            "timings": timings(event),
        }


def _stop_type(event: Finished) -> str:
    if event.reason == "length":
        return "limit"
    return "word" if event.stop is not None else "eos"


class NativeStream:
    """One stream's events to SSE bytes; an encoder as StreamEncoder is, without [DONE]."""

    def __init__(self, shape: Shape, *, progress: bool) -> None:
        self._shape = shape
        self._progress = progress
        self._has_line = [False] * shape.requests.n_choices
        self._n_tokens = [0] * shape.requests.n_choices
        self._n_prompt = 0
        self._failed = False

    def start(self) -> bytes:
        return b""

    def opening(self) -> bytes:
        return self._chunk(0, "", ())

    def encode(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta() | ReasoningDelta():
                return self._delta(event)
            case Prefilling():
                self._n_prompt = event.n_prompt_tokens
                if self._progress:
                    return self._chunk(0, "", (), prompt_progress=progress(event))
            case Finished(reason="cancelled"):
                return self.fail(WireError(499, "cancelled", "the answer was cancelled"))
            case Finished():
                line = "\n" if self._has_line[event.choice] else ""
                return sse.encode(_json(self._shape.end(event, "", [], line)))
            case Failed():
                return self.fail(WireError(500, event.code, event.message))
        return b""

    def _delta(self, event: Delta | ReasoningDelta) -> bytes:
        choice = event.choice
        self._has_line[choice] |= "\n" in event.text
        self._n_tokens[choice] += len(event.token_ids)
        extra = {}
        if event.logprobs:
            extra["completion_probabilities"] = list(map(probabilities, event.logprobs))
        return self._chunk(choice, event.text, event.token_ids, **extra)

    def _chunk(self, choice: int, text: str, tokens: tuple[int, ...], **extra: Any) -> bytes:
        chunk = {
            "index": choice,
            "content": valid_text(text),
            "tokens": tokens,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._n_tokens[choice],
            "tokens_evaluated": self._n_prompt,
            **extra,
        }
        return sse.encode(_json(chunk))

    def end(self) -> bytes:
        return b""

    def fail(self, error: WireError) -> bytes:
        self._failed = True
        return sse.encode(body_of(error))


class NativeWhole:
    """Takes all events; body() is an object, or an array of them where there are several."""

    def __init__(self, shape: Shape, fields: tuple[str, ...] | None) -> None:
        self._shape = shape
        self._fields = fields
        n = shape.requests.n_choices
        self._texts: list[list[str]] = [[] for _ in range(n)]
        self._tokens: list[list[int]] = [[] for _ in range(n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(n)]
        self._finished: dict[int, Finished] = {}
        self._failed: Failed | None = None

    def add(self, event: StreamEvent) -> None:
        match event:
            case Delta() | ReasoningDelta():
                self._texts[event.choice].append(event.text)
                self._tokens[event.choice] += event.token_ids
                self._logprobs[event.choice] += event.logprobs
            case Finished():
                self._finished[event.choice] = event
            case Failed():
                self._failed = event

    def body(self) -> bytes:
        """The JSON of the answer. An answer that broke off is an error, never half an answer."""
        if self._failed is not None:
            raise WireError(500, self._failed.code, self._failed.message)
        if len(self._finished) < len(self._texts) or any(
            event.reason == "cancelled" for event in self._finished.values()
        ):
            raise WireError(499, "cancelled", "the answer was cancelled")
        answers = [self._answer(choice) for choice in range(len(self._texts))]
        return _json(answers[0] if len(answers) == 1 else answers)

    def _answer(self, choice: int) -> dict[str, Any]:
        text = valid_text("".join(self._texts[choice]))
        tokens = self._tokens[choice] if self._shape.shows_tokens else []
        answer = self._shape.end(self._finished[choice], text, tokens, text)
        if self._logprobs[choice]:
            records = self._logprobs[choice]
            answer["completion_probabilities"] = list(map(probabilities, records))
        return _only(answer, self._fields) if self._fields else answer


def _only(answer: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """The named fields; "a/b" is the field b of a. Missing ones are left out."""
    chosen = {}
    for path in fields:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            chosen[path] = value
    return chosen


def probabilities(record: TokenLogprob) -> dict[str, Any]:
    """llama.cpp's object of one token's logprobs."""
    return {
        **_token(record.token_id, record.token, record.logprob),
        "top_logprobs": [_token(top.token_id, top.token, top.logprob) for top in record.top],
    }


def _token(token_id: int, token: bytes, logprob: float) -> dict[str, Any]:
    text = token.decode("utf-8", "replace")
    return {"id": token_id, "token": text, "bytes": list(token), "logprob": logprob}
