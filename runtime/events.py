"""The events of an engine while it answers: one small class per kind.

A local stream is: [Loading…], Queued, [Queued…], Prefilling…, (ReasoningDelta | Delta |
ToolCallDelta)…, Finished for each choice. The first Queued means that the request was checked and
accepted; an error before it means that nothing was started. An EmbeddingRequest's stream is:
[Loading…], Queued, Embedded for each input, in any order, Finished. A Queued in mid-answer means
that the answer lost its KV cells and waits to continue. Later errors are raised by the engine's
generator as EngineError. A cloud provider's stream has no Loading, no Queued and no Prefilling.

Events cross the boundary between worker and parent process, hence msgspec Structs.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

FinishReason: TypeAlias = Literal[
    "stop", "length", "tool_calls", "content_filter", "interrupted", "cancelled"
]
"""Why an answer ended. "interrupted": its stream broke off and no writer could continue it."""

Origin: TypeAlias = Literal["local", "cloud"]


class TopLogprob(Struct, frozen=True, kw_only=True, array_like=True):
    """One of the likeliest tokens of a step."""

    token_id: int
    token: bytes
    logprob: float


class TokenProb(Struct, frozen=True, kw_only=True, array_like=True):
    """A token, and its probability when all samplers were through."""

    token_id: int
    token: bytes
    prob: float


class TokenLogprob(Struct, frozen=True, kw_only=True, array_like=True):
    """The chosen token under the raw distribution: before temperature, penalties and masks.

    *logprob* in nats; *entropy* of the whole distribution in nats; *top* likeliest first.
    """

    token_id: int
    token: bytes
    logprob: float
    entropy: float
    top: tuple[TopLogprob, ...] = ()
    sampled: tuple[TokenProb, ...] = ()
    """Only where the request asks for it: the chosen token, and behind it the likeliest of those
    that the samplers had left."""


class Loading(Struct, frozen=True, kw_only=True, tag=True):
    """The answer waits for its model; *n_ahead* models are loaded before it."""

    model: str
    n_ahead: int = 0
    progress: float | None = None
    """The share of the weights that has been read, from 0 to 1; None: not known."""


class Queued(Struct, frozen=True, kw_only=True, tag=True):
    """Accepted; *position* answers have to end before it begins."""

    position: int
    n_prompt_tokens: int


class Prefilling(Struct, frozen=True, kw_only=True, tag=True):
    """*n_read* of *n_prompt_tokens* are in the KV cache, *n_cached* of them from before."""

    n_read: int
    n_cached: int
    n_prompt_tokens: int


class WriterId(Struct, frozen=True, kw_only=True):
    """The writer: a local model, or a model of a cloud provider."""

    origin: Origin
    model: str
    provider: str | None = None


class Leg(Struct, frozen=True, kw_only=True):
    """What one writer's part of an answer cost; *cost_usd* None: the price is unknown."""

    writer: WriterId
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    duration_ms: float
    cost_usd: float | None = None
    estimated: bool = False
    """The counts are our own: the provider's never arrived, as when its stream broke off."""


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts of one choice; *cached_tokens* of the prompt were already in the KV cache."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    legs: tuple[Leg, ...] = ()
    """One for each writer, in order, if the answer was handed over."""
    estimated: bool = False
    """The counts are our own: the provider's never arrived."""


class Timings(Struct, frozen=True, kw_only=True):
    """Milliseconds that one choice spent in the queue, reading the prompt, and generating."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    n_drafted: int = 0
    """Tokens that were proposed and checked, to generate more than one at a time: by the last
    worker, if an earlier one died."""
    n_accepted: int = 0
    """Those of them that became part of the answer."""


class Measures(Struct, frozen=True, kw_only=True):
    """What one choice has taken so far."""

    usage: Usage
    timings: Timings


class Delta(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Text added to the answer of *choice*, and the tokens sampled since the last delta.

    *text* never ends inside a character. *token_ids* may run ahead of *text* while a possible
    stop string is held back. *logprobs* has one entry per token id, or is empty. *measures* are
    there if the request asks for them and a local model writes.
    """

    choice: int = 0
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    measures: Measures | None = None


class ReasoningDelta(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Like Delta, for the reasoning that precedes the answer."""

    choice: int = 0
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    measures: Measures | None = None


class ToolCallDelta(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A part of tool call number *index* in the answer of *choice*.

    The first delta of a call carries its *id* and *name*; *arguments* of all deltas of a call,
    joined, are one JSON object.
    """

    choice: int = 0
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    measures: Measures | None = None


class Finished(Struct, frozen=True, kw_only=True, tag=True):
    """The answer of *choice* is complete. *stop* is the stop string that ended it, if any."""

    choice: int = 0
    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None


def cancelled(choice: int = 0, n_tokens: int = 0) -> Finished:
    """The end of a choice that was cancelled where nobody had begun it, or had gone on with the
    *n_tokens* that it has."""
    return Finished(
        choice=choice,
        reason="cancelled",
        usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=n_tokens),
        timings=Timings(queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0),
    )


class Embedded(Struct, frozen=True, kw_only=True, tag=True):
    """Input number *index* of an EmbeddingRequest, of *n_tokens* tokens, as a vector: little-endian
    float32, as the model computes it, not normalised. With a query it is the score alone."""

    index: int
    vector: bytes
    n_tokens: int


EngineEvent: TypeAlias = (
    Loading | Queued | Prefilling | Delta | ReasoningDelta | ToolCallDelta | Embedded | Finished
)
"""What an engine yields; it raises instead of yielding Failed."""
