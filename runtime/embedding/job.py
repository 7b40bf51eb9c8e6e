"""A request for vectors or scores with its inputs tokenized, and how far it has come."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from spillover.runtime.embedding.embedder import InputPart, TokenizedInput
from spillover.runtime.events import Finished, FinishReason, Timings, Usage


class EmbeddingJob(Struct, frozen=True, kw_only=True):
    """*inputs* by their numbers in the request. Those that an earlier process has finished are
    missing."""

    id: int
    inputs: dict[int, TokenizedInput]

    @property
    def n_tokens(self) -> int:
        return sum(len(each.tokens) for each in self.inputs.values())


class OpenJob:
    """A job in the queue of the loop. The longest inputs come first: they need the most room, and
    inputs of about one length share a call without much padding."""

    def __init__(self, job: EmbeddingJob, now: float) -> None:
        self.id = job.id
        self.inputs = job.inputs
        self.waiting = deque(sorted(job.inputs, key=lambda i: -len(job.inputs[i].tokens)))
        self.n_open = len(job.inputs)
        self._n_tokens = 0
        self._arrived = now
        self._begun: float | None = None

    @property
    def n_next(self) -> int:
        """Tokens of the input whose turn it is."""
        return len(self.inputs[self.waiting[0]].tokens)

    def begin(self, now: float) -> int:
        """Take the number of the input whose turn it is."""
        self._begun = self._begun or now
        return self.waiting.popleft()

    def ended(self, index: int) -> None:
        """Input number *index* has its vector."""
        self.n_open -= 1
        self._n_tokens += len(self.inputs[index].tokens)

    def finish(self, reason: FinishReason, now: float) -> Finished:
        begun = now if self._begun is None else self._begun
        return Finished(
            reason=reason,
            usage=Usage(prompt_tokens=self._n_tokens, cached_tokens=0, completion_tokens=0),
            timings=Timings(
                queue_ms=1e3 * (begun - self._arrived), prefill_ms=1e3 * (now - begun), decode_ms=0
            ),
        )


class Reading:
    """An input of a job that has a slot."""

    def __init__(self, job: OpenJob, index: int, slot: int) -> None:
        self.job = job
        self.index = index
        self.slot = slot
        self.n_read = 0

    @property
    def n_tokens(self) -> int:
        return len(self.job.inputs[self.index].tokens)

    @property
    def n_unread(self) -> int:
        return self.n_tokens - self.n_read

    def part(self, n_tokens: int) -> InputPart:
        """Its next *n_tokens*."""
        given, start = self.job.inputs[self.index], self.n_read
        end = start + n_tokens
        return InputPart(
            slot=self.slot,
            start=start,
            tokens=given.tokens[start:end],
            segments=None if given.segments is None else given.segments[start:end],
            is_last=end == len(given.tokens),
        )
