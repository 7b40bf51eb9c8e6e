"""The jobs of an embedder: whose inputs the next call reads.

The jobs take turns, input by input, so that a single query does not wait for a whole archive.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import DecodeAborted
from spillover.runtime.embedding.embedder import Embedder, Vector
from spillover.runtime.embedding.job import EmbeddingJob, OpenJob, Reading
from spillover.runtime.errors import EngineBusy, InvalidRequest, ModelError
from spillover.runtime.events import Embedded, EngineEvent, FinishReason, Queued

Emit: TypeAlias = Callable[[list[tuple[int, EngineEvent]]], None]
Reject: TypeAlias = Callable[[int, InvalidRequest | EngineBusy], None]

RETRY_AFTER_S = 2.0
_Batch: TypeAlias = list[tuple[Reading, int]]


class Call(Struct, frozen=True):
    """What a call has read: so many tokens, which on average so many of their input precede, in so
    many seconds."""

    n_tokens: int
    depth: int
    seconds: float


class EmbeddingQueue:
    """Belongs to the thread that computes, except for what says otherwise. *one_by_one*: each call
    reads one input, so that its vector does not depend on others."""

    def __init__(
        self,
        embedder: Embedder,
        emit: Emit,
        reject: Reject,
        clock: Callable[[], float],
        *,
        max_queue: int,
        one_by_one: bool = False,
    ) -> None:
        self.embedder = embedder
        self._emit = emit
        self._reject = reject
        self._clock = clock
        self._max_queue = max_queue
        self._n_most = 1 if one_by_one else embedder.n_slots
        self._jobs: deque[OpenJob] = deque()
        self._reading: dict[int, Reading] = {}
        self._alone: int | None = None  # the job that has the running call for itself
        self._lock = threading.Lock()
        self._n_open = 0

    # --- any thread -------------------------------------------------------------------------

    def accept(self, job: EmbeddingJob, *, unlimited: bool) -> None:
        """Count a job and notify its client; add() has to follow. Raises EngineBusy when there are
        too many, unless *unlimited*."""
        with self._lock:
            if self._n_open > self._max_queue and not unlimited:
                raise EngineBusy(
                    f"{self._n_open} requests for embeddings are running or waiting: try again "
                    "later or raise max_queue",
                    RETRY_AFTER_S,
                )
            ahead = self._n_open
            self._n_open += 1
        self._emit([(job.id, Queued(position=ahead, n_prompt_tokens=job.n_tokens))])

    @property
    def n_open(self) -> int:
        """Jobs that are running or waiting."""
        return self._n_open

    def interrupt(self, job_id: int) -> None:
        """End the running call if it serves the job alone, which was cancelled."""
        if self._alone == job_id:
            self.embedder.abort()

    # --- the loop ---------------------------------------------------------------------------

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._jobs or self._reading)

    def add(self, job: EmbeddingJob) -> None:
        opened = OpenJob(job, self._clock())
        if opened.n_open:
            self._jobs.append(opened)
        else:  # only its end was not told before its process died
            self._end(opened, "stop")

    def cancel(self, job_id: int) -> None:
        """End a job, if there is one of this id."""
        jobs = [*self._jobs, *(reading.job for reading in self._reading.values())]
        job = next((each for each in jobs if each.id == job_id), None)
        if job is not None:
            self._drop(job)
            self._end(job, "cancelled")

    def run_one(self, n_tokens: int) -> Call | None:
        """Make one call of about *n_tokens*, and send what it has finished; None when nothing was
        read."""
        batch = self._next_batch(n_tokens)
        if not batch:
            return None
        parts = [reading.part(n) for reading, n in batch]
        ids = {reading.job.id for reading, _ in batch}
        self._alone = ids.pop() if len(ids) == 1 else None
        started = self._clock()
        try:
            vectors = self.embedder.run(parts)
        except DecodeAborted:
            self._begin_again([reading for reading, _ in batch])
            return None
        finally:
            self._alone = None
        n_read = sum(n for _, n in batch)
        depth = sum(reading.n_read * n for reading, n in batch) // n_read
        call = Call(n_read, depth, self._clock() - started)
        self._note(batch, vectors)
        return call

    def _next_batch(self, n_tokens: int) -> _Batch:
        """Readings, and how many of their tokens are next: those that are half read come first."""
        embedder = self.embedder
        batch: _Batch = []
        left = min(n_tokens, embedder.n_batch) if embedder.is_sliced else embedder.n_batch
        for reading in self._reading.values():
            if left > 0:
                batch.append((reading, min(left, reading.n_unread)))
                left -= batch[-1][1]
        while left > 0 and len(self._reading) < self._n_most and self._jobs:
            n = self._jobs[0].n_next
            if not self._fits(batch, n, left) or not self._has_room(n):
                break
            reading = self._begin_next()
            batch.append((reading, min(left, n) if embedder.is_sliced else n))
            left -= batch[-1][1]
        return batch

    def _fits(self, batch: _Batch, n: int, left: int) -> bool:
        """Whether an input of *n* tokens may join the call."""
        if self.embedder.is_sliced or not batch:
            return True
        if not self.embedder.is_padded:
            return n <= left
        longest = max(n, *(taken for _, taken in batch))
        return longest * (len(batch) + 1) <= self.embedder.n_batch

    def _has_room(self, n: int) -> bool:
        """Whether the embedder can begin an input of *n* tokens now."""
        embedder = self.embedder
        if embedder.is_sliced:
            n_needed = n + sum(reading.n_tokens for reading in self._reading.values())
        else:
            n_needed = n
        if n_needed <= embedder.room:
            return True
        if self._reading:
            return False
        try:
            embedder.make_room(n)
        except ModelError as error:
            job = self._jobs[0]
            self._drop(job)
            self._reject(job.id, EngineBusy(str(error), RETRY_AFTER_S))
            self._count_out()
            return False
        return True

    def _begin_next(self) -> Reading:
        """Give a slot to the next input; the job behind has the next turn."""
        job = self._jobs.popleft()
        slot = next(i for i in range(self.embedder.n_slots) if i not in self._reading)
        reading = Reading(job, job.begin(self._clock()), slot)
        self._reading[slot] = reading
        if job.waiting:
            self._jobs.append(job)
        return reading

    def _begin_again(self, readings: list[Reading]) -> None:
        """The call was aborted: its inputs wait again."""
        for reading in readings:
            del self._reading[reading.slot]
            job = reading.job
            job.waiting.appendleft(reading.index)
            if job not in self._jobs:
                self._jobs.appendleft(job)

    def _note(self, batch: _Batch, vectors: list[Vector]) -> None:
        events: list[tuple[int, EngineEvent]] = []
        found = iter(vectors)
        for reading, n in batch:
            reading.n_read += n
            if reading.n_unread:
                continue
            self._reading.pop(reading.slot, None)
            vector, job = next(found), reading.job
            if job.n_open == 0:  # refused because of another input
                continue
            if not np.isfinite(vector).all():
                self._refuse(job, reading.index)
                continue
            job.ended(reading.index)
            content = vector.astype("<f4").tobytes()
            event = Embedded(index=reading.index, vector=content, n_tokens=reading.n_tokens)
            events.append((job.id, event))
            if job.n_open == 0:
                events.append((job.id, job.finish("stop", self._clock())))
                self._count_out()
        self._emit(events)

    def _refuse(self, job: OpenJob, index: int) -> None:
        """The model has computed no numbers."""
        self._drop(job)
        job.n_open = 0
        message = f"the model computes no numbers for input {index}: its file may be damaged"
        self._reject(job.id, InvalidRequest(message))
        self._count_out()

    def _drop(self, job: OpenJob) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        for reading in [each for each in self._reading.values() if each.job is job]:
            self.embedder.forget(reading.slot)
            del self._reading[reading.slot]

    def _end(self, job: OpenJob, reason: FinishReason) -> None:
        self._count_out()
        self._emit([(job.id, job.finish(reason, self._clock()))])

    def _count_out(self) -> None:
        with self._lock:
            self._n_open -= 1
