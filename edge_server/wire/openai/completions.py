"""OpenAI's text completions."""

from __future__ import annotations

import math
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Choice, Encoder
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.openai.answer import (
    ChunkOptions,
    OpenAIStream,
    OpenAIWhole,
    chunk_options,
    head_fields,
    verbose,
)
from spillover.edge_server.wire.prompts import (
    SentPrompt,
    engine_prompts,
    infill_prompt,
    prompts_of,
    text_of,
)
from spillover.edge_server.wire.request_body import (
    CommonBody,
    answer_plan,
    decode,
    request_of,
    route_options_of,
)
from spillover.runtime.events import Delta, ReasoningDelta, TokenLogprob
from spillover.runtime.request import MAX_CHOICES as MAX_CHOICES_EACH
from spillover.runtime.request import GenerationRequest
from spillover.runtime.text.surrogates import valid_text

_KIND = "text_completion"
MAX_CHOICES = 256
"""Prompts times answers for each."""


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1/completions."""
    body = decode(asked.content, CompletionBody)
    wanted = completions_of(body, asked)
    options = route_options_of(body, asked)
    head = head_fields(_KIND, f"cmpl-{asked.options.id}", asked.engine.name)
    shown = _verbose(body, asked, wanted) if body.verbose else ()
    encoder: Encoder
    if body.stream:
        chunks = chunk_options(body, options, wanted.n_choices, wanted.n_wanted)
        encoder = CompletionStream(head, replace(chunks, last_fields=shown), wanted.echoes)
    else:
        if shown:
            each = [one["__verbose"] for one in shown]
            head["__verbose"] = each[0] if len(each) == 1 else each
        encoder = CompletionWhole(head, wanted, logprobs=body.logprobs is not None)
    return answer_plan(asked, body, wanted.requests, encoder, options)


def _verbose(
    body: CompletionBody, asked: AnswerRequest, wanted: Completions
) -> tuple[dict[str, Any], ...]:
    prompts = tuple(text_of(asked.engine, SentPrompt((r.prompt or "",))) for r in wanted.requests)
    return verbose(wanted.requests, prompts, asked.engine, stream=bool(body.stream))


class CompletionBody(CommonBody, frozen=True, kw_only=True):
    """*prompt* is a text, token ids, or a list of such prompts."""

    prompt: Any
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class Completions(Struct, frozen=True, kw_only=True):
    """One request for each prompt; choices are numbered prompt by prompt."""

    requests: tuple[GenerationRequest, ...]
    n_wanted: int
    """Choices to show of each prompt; the others (best_of) are only compared."""
    echoes: tuple[str, ...]
    """The text before the answers of each prompt."""

    @property
    def n_choices(self) -> int:
        return len(self.requests) * self.n_wanted


def completions_of(body: CompletionBody, asked: AnswerRequest) -> Completions:
    """The requests of a body, or a 400 that names the field."""
    engine = asked.engine
    n_wanted = 1 if body.n is None else body.n
    n = n_wanted if body.best_of is None else body.best_of
    _check_combinations(body, n_wanted, n)
    prompts = prompts_of(body.prompt)
    if n * len(prompts) > MAX_CHOICES:
        raise bad_request(f"prompt: at most {MAX_CHOICES} answers at once", "prompt")
    if body.suffix:
        tokens = tuple(infill_prompt(engine, text_of(engine, p), body.suffix) for p in prompts)
    else:
        tokens = engine_prompts(engine, prompts)  # type: ignore[assignment]  # texts and ids alike
    logprobs = 0 if body.logprobs is None and n > n_wanted else body.logprobs
    fields = {"max_tokens": body.max_tokens, "logprobs": logprobs, "n": n}
    return Completions(
        requests=tuple(
            request_of(body, {**fields, "prompt": prompt}, asked.defaults) for prompt in tokens
        ),
        n_wanted=n_wanted,
        echoes=tuple(text_of(engine, p) for p in prompts) if body.echo else ("",) * len(prompts),
    )


def _check_combinations(body: CompletionBody, n_wanted: int, n: int) -> None:
    if n > MAX_CHOICES_EACH:
        name = "n" if body.best_of is None else "best_of"
        raise bad_request(f"{name} must be at most {MAX_CHOICES_EACH}", name)
    if n_wanted < 1:
        raise bad_request("n must be at least 1", "n")
    if n < n_wanted:
        raise bad_request("best_of must be at least n", "best_of")
    if n > n_wanted and body.stream:
        raise bad_request("best_of cannot be streamed: set stream: false", "best_of")
    if body.post_sampling_probs and body.logprobs is not None:
        message = "post_sampling_probs has no place in OpenAI's logprobs: use /completion"
        raise bad_request(message, "post_sampling_probs")
    if body.echo and body.logprobs is not None:
        raise bad_request("echo and logprobs exclude each other: leave one out", "echo")
    if body.echo and body.suffix:
        raise bad_request("echo and suffix exclude each other: leave one out", "echo")


class CompletionStream(OpenAIStream):
    """Chunks of text_completion objects."""

    def __init__(
        self, head: dict[str, Any], options: ChunkOptions, echoes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(head, options)
        self._echoes = echoes
        self._offsets = [0] * options.n

    def open(self) -> bytes:
        """The prompts, for clients that want them before the answers."""
        return b"".join(
            self._plain(Delta(choice=prompt * self._options.n_each + i, text=echo))
            for prompt, echo in enumerate(self._echoes)
            for i in range(self._options.n_each)
            if echo
        )

    def _delta(self, event: Delta | ReasoningDelta) -> dict[str, Any]:
        logprobs = None
        if event.logprobs:
            logprobs = _logprobs(event.logprobs, self._offsets[event.choice])
            self._offsets[event.choice] += sum(len(t) for t in logprobs["tokens"])
        return {"text": valid_text(event.text), "logprobs": logprobs, "finish_reason": None}

    def _empty_choice(self) -> dict[str, Any]:
        return {"text": ""}


class CompletionWhole(OpenAIWhole):
    """One text_completion object for all prompts: of each the best choices, when more were made
    than are wanted."""

    def __init__(self, head: dict[str, Any], wanted: Completions, *, logprobs: bool) -> None:
        n_each = wanted.requests[0].n
        self._echoes = [echo for echo in wanted.echoes for _ in range(n_each)]
        super().__init__(head, [Choice() for _ in self._echoes], n_each)
        self._n_wanted = wanted.n_wanted
        self._logprobs = logprobs

    def _shown(self) -> list[int]:
        if self._n_wanted == self._n_each:
            return super()._shown()
        shown = []
        for first in range(0, len(self.choices), self._n_each):
            group = range(first, first + self._n_each)
            shown += sorted(group, key=self._mean_logprob, reverse=True)[: self._n_wanted]
        return shown

    def _mean_logprob(self, number: int) -> float:
        """OpenAI's measure of the best: the highest log probability per token."""
        records = self.choices[number].logprobs
        return sum(r.logprob for r in records) / len(records) if records else -math.inf

    def _shape(self, number: int) -> dict[str, Any]:
        choice = self.choices[number]
        logprobs = _logprobs(tuple(choice.logprobs), 0) if self._logprobs else None
        text = "".join((self._echoes[number], *choice.text))
        return {"text": valid_text(text), "logprobs": logprobs}


def _logprobs(records: tuple[TokenLogprob, ...], offset: int) -> dict[str, Any]:
    """The logprobs object; *offset* counts characters of the answer."""
    tokens = [record.token.decode("utf-8", "replace") for record in records]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [record.logprob for record in records],
        "top_logprobs": [
            {top.token.decode("utf-8", "replace"): top.logprob for top in record.top}
            for record in records
        ],
        "text_offset": offsets,
    }
