"""Queues the sequences of new jobs, and starts them as slots and KV cells become free."""

from __future__ import annotations

from collections.abc import Callable

from spillover.runtime.backend import Backend, Tokens
from spillover.runtime.events import Prefilling, Queued
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.scheduling.departure import Departure
from spillover.runtime.scheduling.outbox import Outbox
from spillover.runtime.scheduling.queues import Queues
from spillover.runtime.scheduling.sequence import Job, Sequence
from spillover.runtime.scheduling.step_plan import admission_reserve


class Admission:
    """Belongs to the loop. Tells the clients where they stand in the queue."""

    def __init__(
        self,
        backend: Backend,
        queues: Queues,
        kv: KvCache,
        out: Outbox,
        n_ctx: int,
        clock: Callable[[], float],
        departure: Departure,
    ) -> None:
        self._backend = backend
        self._queues = queues
        self._kv = kv
        self._out = out
        self._n_ctx = n_ctx
        self._clock = clock
        self._departure = departure

    def enqueue(self, job: Job) -> None:
        """Let the open answers of *job* wait. The background leaves its slots to the others."""
        if not job.is_background:
            running = self._queues.running_background
            for running_one in sorted(running, key=lambda s: s.age, reverse=True):
                self._departure.requeue(running_one)
        leader: Sequence | None = None
        for choice in range(job.request.n):
            if not job.is_open(choice):
                continue
            sequence = Sequence(job, choice, leader, self._clock())
            leader = leader or sequence
            self._queues.enqueue(sequence)
            if sequence.n_left(self._n_ctx) <= 0 < sequence.n_generated:
                self._departure.finish(sequence, "length")

    def admit(self) -> None:
        """Start the first waiting sequences while there are slots and KV cells for them."""
        queues = self._queues
        n_before = len(queues.waiting)
        while (first := queues.next) is not None:
            if first.waits_for_leader or self._fetches(first):
                break
            if not self._start(first):
                if queues.n_running or self._kv.is_waiting:
                    break
                # The system has no memory for it, and no other sequence will free any.
                self._departure.finish(first, "length")
        queues.may_admit = False
        if len(queues.waiting) != n_before:
            self._report_positions()

    def _fetches(self, sequence: Sequence) -> bool:
        """Whether the first waiting sequence waits for what it begins with, which is on disk."""
        return sequence.request.reuse_prefix and self._kv.fetch(sequence.tokens, self._live)

    def fill_part(self, sequence: Sequence) -> int:
        """Give it a part more of what it begins with; returns the number of tokens."""
        n = self._kv.fill_part(sequence.seq, sequence.tokens, self._live) - sequence.n_past
        sequence.filled(sequence.n_past + n)
        if not self._kv.is_filled(sequence.seq):
            self._queues.end_filling(sequence)
        self.report_progress(sequence)
        return n

    @property
    def _live(self) -> list[tuple[int, Tokens]]:
        return [(s.seq, s.tokens[: s.n_past]) for s in self._queues.running]

    def _start(self, sequence: Sequence) -> bool:
        """Start the first waiting sequence; False when the KV cache has no room for it."""
        placed = self._kv.place(
            sequence.tokens,
            admission_reserve(self._queues, sequence, self._n_ctx),
            self._live,
            reuse=sequence.request.reuse_prefix,
            in_parts=bool(self._queues.decoding),
        )
        if placed is None:
            return False
        self._queues.start_prefill(*placed, is_filled=self._kv.is_filled(placed[0]))
        sequence.admitted(self._clock())
        if sequence.sampler is None:
            request = sequence.request
            sequence.sampler = self._backend.sampler(
                request.sampling,
                sequence.seed,
                ignore_eos=request.ignore_eos,
                constraint=sequence.constraint,
                shows_distribution=request.post_sampling_probs,
            )
            sequence.sampler.accept(sequence.tokens.tolist())
        self.report_progress(sequence)
        return True

    def _report_positions(self) -> None:
        reported: set[int] = set()
        n_to_end = min(self._queues.n_running, 1)  # one of those that run makes room for the first
        for position, sequence in enumerate(self._queues.waiting, n_to_end):
            if sequence.job_id not in reported and sequence.n_generated == 0:
                reported.add(sequence.job_id)
                queued = Queued(position=position, n_prompt_tokens=sequence.n_prompt)
                self._out.add(sequence.job_id, queued)

    def report_progress(self, sequence: Sequence) -> None:
        """Tell the client of *sequence* how much of its prompt has been read."""
        if sequence.leader is None and sequence.n_generated == 0:
            progress = Prefilling(
                n_read=sequence.n_past,
                n_cached=sequence.n_cached,
                n_prompt_tokens=sequence.n_prompt,
            )
            self._out.add(sequence.job_id, progress)
