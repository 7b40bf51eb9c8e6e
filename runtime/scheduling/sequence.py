"""One answer in progress: its tokens, its sampler and its text."""

from __future__ import annotations

from enum import Enum

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Constraint, Sampler, Tokens
from spillover.runtime.chat.pipeline import Piece, TextPipeline
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    FinishReason,
    Measures,
    ReasoningDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from spillover.runtime.request import GenerationRequest
from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.tools.parser import CallDelta


class Phase(Enum):
    """WAITING → PREFILL → DECODE → DONE; a preempted sequence goes back to WAITING."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


class Job(Struct, frozen=True, kw_only=True):
    """A request with its prompt tokenized. *resumed* holds, for each choice, the tokens that an
    earlier process had generated, or None where that choice was finished."""

    id: int
    request: GenerationRequest
    prompt: Tokens
    seed: int
    pipelines: tuple[TextPipeline, ...]
    resumed: tuple[tuple[int, ...] | None, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    """One for each choice, when the answer is constrained."""
    n_preamble: int = 0
    """Tokens of the prompt before the first turn of the user: what other conversations may begin
    with."""
    shown: dict[int, bytes] = {}
    """Control tokens that count as text: they mark tool calls."""

    def is_open(self, choice: int) -> bool:
        """Whether *choice* still has to be generated."""
        return not self.resumed or self.resumed[choice] is not None

    @property
    def is_background(self) -> bool:
        return self.request.is_background

    @property
    def n_open(self) -> int:
        return sum(map(self.is_open, range(self.request.n)))


class Sequence:
    """One choice of a job, from the queue to its last token."""

    def __init__(self, job: Job, choice: int, leader: Sequence | None, now: float) -> None:
        generated = (job.resumed[choice] or ()) if job.resumed else ()
        self.job_id = job.id
        self.choice = choice
        self.request = job.request
        self.is_background = job.is_background
        self.seed = job.seed + choice
        self.leader = leader
        self.n_prompt = len(job.prompt)
        self.n_preamble = job.n_preamble
        self.n_generated = len(generated)
        self.n_past = 0
        self.n_cached = 0
        self.seq = -1
        self.slot = -1
        self.phase = Phase.WAITING
        self.sampler: Sampler | None = None
        self.drafter: Drafter | None = None
        self.order = job.id
        self.constraint = job.constraints[choice] if job.constraints else None
        self._shown = job.shown
        self._pipeline = job.pipelines[choice]
        self._buffer = np.concatenate([job.prompt, np.array(generated, dtype=np.int32)])
        self._pending_ids: list[int] = []
        self._pending_logprobs: list[TokenLogprob] = []
        self._n_reasoning = 0
        self._n_drafted = self._n_accepted = 0
        self._arrived = now
        self._admitted: float | None = None
        self._first: float | None = None

    @property
    def tokens(self) -> Tokens:
        """Prompt and answer so far: a view."""
        return self._buffer[: self.n_tokens]

    @property
    def n_tokens(self) -> int:
        return self.n_prompt + self.n_generated

    @property
    def n_unread(self) -> int:
        """Tokens that are not in the KV cache yet."""
        return self.n_tokens - self.n_past

    @property
    def age(self) -> tuple[int, int]:
        """Less for older sequences."""
        return self.order, self.choice

    @property
    def waits_for_leader(self) -> bool:
        """Whether another choice is still reading the prompt that this one will share."""
        leader = self.leader
        return leader is not None and leader.phase in (Phase.WAITING, Phase.PREFILL)

    def n_left(self, n_ctx: int) -> int:
        """How many more tokens may be generated."""
        left = n_ctx - self.n_tokens
        if self.request.max_tokens is not None:
            left = min(left, self.request.max_tokens - self.n_generated)
        return left

    def placed(self, seq: int, n_past: int, *, slot: int) -> None:
        """Start reading: the KV cache holds its first *n_past* tokens under the id *seq*."""
        self.seq, self.slot = seq, slot
        self.phase = Phase.PREFILL
        self.filled(n_past)

    def filled(self, n_past: int) -> None:
        """Note that the KV cache holds so many of its tokens without reading them."""
        self.n_past = n_past
        self.n_cached = max(self.n_cached, min(n_past, self.n_prompt))

    def admitted(self, now: float) -> None:
        if self._admitted is None:
            self._admitted = now

    def preempted(self) -> None:
        """Its KV cells were freed: wait to be read again, including what it has generated."""
        self.phase = Phase.WAITING
        self.seq = self.slot = -1
        self.n_past = 0

    def service_s(self, now: float) -> float:
        """Seconds since it left the queue for the first time."""
        return now - (now if self._admitted is None else self._admitted)

    def append(
        self, token: int, piece: bytes, logprob: TokenLogprob | None, now: float
    ) -> list[EngineEvent]:
        """Take a sampled token; returns the deltas that its text releases."""
        if self._first is None:
            self._first = now
        self._store(token)
        self._pending_ids.append(token)
        if logprob is not None:
            self._pending_logprobs.append(logprob)
        return self._deltas(self._pipeline.feed(piece or self._shown.get(token, b"")), now)

    def count_eog(self, now: float) -> None:
        """Count the token that ends the answer; it has no text."""
        if self._first is None:
            self._first = now
        self.n_generated += 1

    def count_draft(self, n_checked: int, n_accepted: int) -> None:
        """Count tokens that were proposed, and those of them that the model chose, too."""
        self._n_drafted += n_checked
        self._n_accepted += n_accepted

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        return self._pipeline.stopped

    @property
    def is_complete(self) -> bool:
        """Whether the answer satisfies its constraint and nothing may follow."""
        return self.constraint is not None and self.constraint.is_complete

    @property
    def end_reason(self) -> FinishReason:
        """Why the answer ended, when it ended by itself."""
        if self.constraint is not None and self.constraint.has_failed:
            return "interrupted"
        return "tool_calls" if self._pipeline.has_calls else "stop"

    def _store(self, token: int) -> None:
        n = self.n_tokens
        if n == len(self._buffer):
            grown = np.empty(2 * n + 64, dtype=np.int32)
            grown[:n] = self._buffer
            self._buffer = grown
        self._buffer[n] = token
        self.n_generated += 1

    def _deltas(self, pieces: list[Piece], now: float) -> list[EngineEvent]:
        return [self._delta(piece, now) for piece in pieces]

    def _delta(self, piece: Piece, now: float) -> EngineEvent:
        """A delta with the tokens since the last one."""
        choice, ids, logprobs = self.choice, tuple(self._pending_ids), tuple(self._pending_logprobs)
        measures = self._measures(now) if self.request.timings_per_token else None
        self._pending_ids.clear()
        self._pending_logprobs.clear()
        if isinstance(piece, CallDelta):
            return ToolCallDelta(
                choice=choice,
                index=piece.index,
                id=piece.id,
                name=piece.name,
                arguments=piece.arguments,
                token_ids=ids,
                logprobs=logprobs,
                measures=measures,
            )
        is_reasoning, text = piece
        if is_reasoning:
            self._n_reasoning += len(ids)
        kind = ReasoningDelta if is_reasoning else Delta
        return kind(choice=choice, text=text, token_ids=ids, logprobs=logprobs, measures=measures)

    def finish(self, reason: FinishReason, now: float) -> list[EngineEvent]:
        """The last deltas and Finished; the caller frees what the sequence holds."""
        self.phase = Phase.DONE
        events = self._deltas(self._pipeline.flush(), now)
        if self._pending_logprobs:
            events.extend(self._deltas([(False, "")], now))
        events.append(
            Finished(
                choice=self.choice,
                reason=reason,
                usage=self._usage,
                timings=self._timings(now),
                stop=self.stop,
            )
        )
        return events

    def _measures(self, now: float) -> Measures:
        return Measures(usage=self._usage, timings=self._timings(now))

    @property
    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.n_prompt,
            cached_tokens=self.n_cached,
            completion_tokens=self.n_generated,
            reasoning_tokens=self._n_reasoning,
        )

    def _timings(self, now: float) -> Timings:
        admitted = now if self._admitted is None else self._admitted
        first = now if self._first is None else self._first
        return Timings(
            queue_ms=1e3 * (admitted - self._arrived),
            prefill_ms=1e3 * (first - admitted),
            decode_ms=1e3 * (now - first),
            n_drafted=self._n_drafted,
            n_accepted=self._n_accepted,
        )
