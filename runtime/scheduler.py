"""Decides what the next call to the backend carries.

One thread, the loop, owns the backend. Other threads leave commands in an inbox. Each step:
commands, admission, one decode call for all running sequences, then slices of one waiting prompt
for as long as the running ones may be kept waiting.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from spillover.runtime.backend import Backend, DecodeAborted, KvFull, Rows
from spillover.runtime.calibration import Calibration
from spillover.runtime.engine import SlotState
from spillover.runtime.events import FinishReason, Prefilling, Queued
from spillover.runtime.inbox import Inbox
from spillover.runtime.kv_cache import KvCache
from spillover.runtime.logprobs import RawDistribution
from spillover.runtime.outbox import Emit, Outbox
from spillover.runtime.sequence import Job, Phase, Sequence
from spillover.runtime.slice_plan import SlicePlan, best_alone, plan_slice

GAP_SHARE = 0.85
"""Share of the allowed gap that is planned for; the rest absorbs what the prediction misses."""

ADMISSION_RESERVE = 64
"""KV cells, besides those of its prompt, that must be free for a sequence to begin."""


class SchedulerOptions(Struct, frozen=True, kw_only=True):
    """Limits of a scheduler; n_ctx is in tokens per sequence."""

    n_ctx: int
    n_parallel: int
    max_queue: int
    max_gap_s: float
    n_prefix_cached: int
    shelf_bytes: int = 0


class Scheduler:
    """Continuous batching of up to n_parallel sequences on one backend."""

    def __init__(
        self,
        backend: Backend,
        options: SchedulerOptions,
        emit: Emit,
        calibration: Calibration,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._options = options
        self._emit = emit
        self._clock = clock
        self._out = Outbox(emit, clock)
        self._calibration = calibration
        self._kv = KvCache(backend, options.n_prefix_cached, options.shelf_bytes)
        self._inbox = Inbox(options.n_parallel, options.max_queue)
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._decoding: list[Sequence] = []
        self._slots: list[Sequence | None] = [None] * options.n_parallel
        self._decode_s: dict[int, float] = {}
        self._may_admit = False
        self._slicing: Sequence | None = None  # alone in the running call

    # --- any thread -------------------------------------------------------------------------

    def submit(self, job: Job, *, unlimited: bool = False) -> None:
        """Queue a job and say so to its client; EngineBusy when the queue is full.

        *unlimited* is for jobs that were accepted before, in a process that died.
        """

        def accepted(ahead: int) -> None:
            queued = Queued(position=ahead, n_prompt_tokens=len(job.prompt))
            self._emit([(job.id, queued)])

        self._inbox.submit(job, accepted, unlimited=unlimited)
        self._calibration.interrupt()

    def cancel(self, job_id: int) -> None:
        """End what is left of a job at the next step."""
        self._inbox.cancel(job_id)
        # Nobody else is in a slice's call, so it need not be waited for.
        slicing = self._slicing
        if slicing is not None and slicing.job_id == job_id:
            self._backend.abort()

    def stop(self) -> None:
        """Let run() return after the present step."""
        self._inbox.stop()
        self._calibration.interrupt()
        self._backend.abort()

    def slots(self) -> tuple[SlotState, ...]:
        """A snapshot for /slots."""
        return tuple(
            SlotState(id=i, state="idle", n_tokens=0)
            if s is None
            else SlotState(
                id=i, state="decode" if s.phase is Phase.DECODE else "prefill", n_tokens=s.n_past
            )
            for i, s in enumerate(list(self._slots))
        )

    @property
    def n_queued(self) -> int:
        return max(self._inbox.n_open - sum(s is not None for s in self._slots), 0)

    @property
    def n_kv_used(self) -> int:
        return self._kv.n_used

    # --- the loop ---------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stop(). Raises DecodeFailed when the backend cannot go on."""
        while self._take_commands():
            if self._is_idle:
                self._calibration.measure_one(self._kv)
                continue
            if self._may_admit:
                self._admit()
            self._kv.shelve_one()
            self._step()
            self._out.after_step(self._next_step_s())

    @property
    def _is_idle(self) -> bool:
        return not (self._waiting or self._prefilling or self._decoding)

    def _take_commands(self) -> bool:
        """Wait for work when there is none; False when it is time to stop."""
        orders = self._inbox.take(wait=self._is_idle and self._calibration.is_done)
        if orders is None:
            return False
        for order in orders:
            if isinstance(order, Job):
                self._enqueue(order)
            else:
                self._cancel(order)
        if orders:
            self._out.flush()
        return True

    def _enqueue(self, job: Job) -> None:
        leader: Sequence | None = None
        for choice in range(job.request.n):
            if not job.is_open(choice):
                continue
            sequence = Sequence(job, choice, leader, self._clock())
            leader = leader or sequence
            self._waiting.append(sequence)
            if sequence.n_left(self._options.n_ctx) <= 0 < sequence.n_generated:
                self._finish(sequence, "length")
        self._may_admit = True

    def _cancel(self, job_id: int) -> None:
        for sequence in (*self._waiting, *self._prefilling, *self._decoding):
            if sequence.job_id == job_id:
                self._finish(sequence, "cancelled")

    # --- admission --------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give slots to the head of the queue while there are slots and KV cells for it."""
        n_before = len(self._waiting)
        while self._waiting and None in self._slots:
            sequence = self._waiting[0]
            if sequence.waits_for_leader or not self._begin(sequence):
                break
            self._waiting.popleft()
        self._may_admit = False
        if len(self._waiting) != n_before:
            self._tell_positions()

    def _begin(self, sequence: Sequence) -> bool:
        reserve = min(sequence.n_left(self._options.n_ctx), ADMISSION_RESERVE)
        live = [(s.seq, s.tokens[: s.n_past]) for s in self._slots if s is not None]
        # Others write a cell each per step; do not begin only to be preempted at once.
        reserve += len(self._decoding)
        reuse = sequence.request.reuse_prefix
        placed = self._kv.place(sequence.tokens, reserve if live else 1, live, reuse=reuse)
        if placed is None:
            return False
        sequence.seq, sequence.n_past = placed
        sequence.n_cached = max(sequence.n_cached, min(sequence.n_past, sequence.n_prompt))
        sequence.slot = self._slots.index(None)
        self._slots[sequence.slot] = sequence
        sequence.phase = Phase.PREFILL
        sequence.admitted(self._clock())
        if sequence.sampler is None:
            request = sequence.request
            sequence.sampler = self._backend.sampler(
                request.sampling,
                sequence.seed,
                ignore_eos=request.ignore_eos,
                constraint=sequence.constraint,
            )
            sequence.sampler.accept(sequence.tokens.tolist())
        self._prefilling.append(sequence)
        self._tell_progress(sequence)
        return True

    def _tell_positions(self) -> None:
        told: set[int] = set()
        for position, sequence in enumerate(self._waiting):
            if sequence.job_id not in told and sequence.n_generated == 0:
                told.add(sequence.job_id)
                queued = Queued(position=position, n_prompt_tokens=sequence.n_prompt)
                self._out.add(sequence.job_id, queued)

    def _tell_progress(self, sequence: Sequence) -> None:
        if sequence.leader is None and sequence.n_generated == 0:
            progress = Prefilling(
                n_read=sequence.n_past,
                n_cached=sequence.n_cached,
                n_prompt_tokens=sequence.n_prompt,
            )
            self._out.add(sequence.job_id, progress)

    # --- a step -----------------------------------------------------------------------------

    def _step(self) -> None:
        if self._prefilling and self._decoding:
            self._step_both()
        elif self._prefilling:
            sequence = self._prefilling[0]
            costs = self._calibration.pure
            n = best_alone(costs, sequence.n_unread, sequence.n_past, self._backend.info.n_batch)
            self._prefill(sequence, n)
        elif self._decoding:
            self._decode(None, 0)

    def _step_both(self) -> None:
        """Decode rows first, then slices of a prompt until the running ones want their turn."""
        room_s = GAP_SHARE * self._options.max_gap_s - self._expected_decode_s()
        sequence = self._prefilling[0]
        plan = self._plan(sequence, room_s)
        if plan.mixed:
            self._decode(sequence, plan.n_tokens)
            return
        self._decode(None, 0)
        self._out.flush()
        started = self._clock()
        first = True
        while self._prefilling and not self._inbox:
            sequence = self._prefilling[0]
            left_s = room_s - (self._clock() - started)
            plan = self._plan(sequence, left_s)
            if not first and not self._fits(sequence, plan.n_tokens, left_s):
                return
            first = False
            if not self._prefill(sequence, plan.n_tokens):
                return

    def _fits(self, sequence: Sequence, n_tokens: int, room_s: float) -> bool:
        seconds = self._calibration.pure.predict(n_tokens, sequence.n_past)
        return seconds is not None and seconds <= room_s

    def _plan(self, sequence: Sequence, room_s: float) -> SlicePlan:
        return plan_slice(
            self._calibration.pure,
            self._calibration.mixed,
            n_left=sequence.n_unread,
            depth=sequence.n_past,
            n_most=self._backend.info.n_batch - len(self._decoding),
            room_s=room_s,
            decode_s=self._expected_decode_s(),
        )

    def _next_step_s(self) -> float | None:
        """Seconds until the next step's text, where only decoding is ahead."""
        if self._prefilling or self._may_admit:
            return None
        return self._decode_s.get(len(self._decoding))

    def _expected_decode_s(self) -> float:
        return self._decode_s.get(len(self._decoding), 0.0)

    def _prefill(self, sequence: Sequence, n: int) -> bool:
        """Read *n* tokens of a prompt in a call of their own; False when it came to nothing."""
        if not self._claim(n):
            return False
        depth, wants_logits = sequence.n_past, n == sequence.n_unread
        rows = Rows(sequence.seq, depth, sequence.tokens[depth : depth + n], wants_logits)
        started = self._clock()
        self._slicing = sequence
        try:
            if self._inbox or not self._call([rows]):
                return False
            self._calibration.pure.observe(n, depth, self._clock() - started)
        finally:
            self._slicing = None
        self._read(sequence, n, 0)
        return True

    def _decode(self, sliced: Sequence | None, n_slice: int) -> None:
        """One token for each running sequence, and *n_slice* tokens of a prompt beside them."""
        if not self._claim(len(self._decoding) + n_slice):
            return
        decoding = self._decoding.copy()
        batch = [Rows(s.seq, s.n_past, s.tokens[s.n_past :], True) for s in decoding]
        depth = 0
        if sliced is not None:
            depth, wants_logits = sliced.n_past, n_slice == sliced.n_unread
            tokens = sliced.tokens[depth : depth + n_slice]
            batch.append(Rows(sliced.seq, depth, tokens, wants_logits))
        started = self._clock()
        if not self._call(batch):
            return
        seconds = self._clock() - started
        if sliced is None:
            known = self._decode_s.get(len(decoding), seconds)
            self._decode_s[len(decoding)] = known + 0.2 * (seconds - known)
        else:
            self._calibration.mixed.observe(n_slice, depth, seconds)
        now = self._clock()
        for output, sequence in enumerate(decoding):
            self._kv.extend(sequence.seq, 1)
            sequence.n_past += 1
            self._sample(sequence, output, now)
        if sliced is not None:
            self._read(sliced, n_slice, len(decoding))

    def _call(self, batch: list[Rows]) -> bool:
        """Run the backend; False when nothing was read."""
        try:
            self._backend.decode(batch)
        except DecodeAborted:
            for rows in batch:
                self._kv.rewind(rows.seq)
            return False
        except KvFull:
            self._yield_cells()
            return False
        return True

    def _yield_cells(self) -> None:
        """The backend found no room where the ledger saw some: its cells may be in pieces."""
        if not self._kv.evict_one():
            self._preempt(self._victim())

    def _claim(self, n_cells: int) -> bool:
        """Have cells for the next call. False when it must be planned anew, because a victim
        had to give way."""
        if self._kv.make_room(n_cells):
            return True
        self._preempt(self._victim())
        return False

    def _victim(self) -> Sequence:
        """The sequence that has come last: the first ones get to their end."""
        return max((s for s in self._slots if s is not None), key=lambda s: (s.order, s.choice))

    def _preempt(self, sequence: Sequence) -> None:
        """Take back what *sequence* holds and queue it again, with its text; where it is alone,
        the cache is too small for it and its answer ends."""
        if sum(s is not None for s in self._slots) == 1:
            self._finish(sequence, "length")
            return
        self._leave(sequence)
        self._kv.drop(sequence.seq)
        sequence.preempted()
        self._waiting.appendleft(sequence)

    def _read(self, sequence: Sequence, n: int, output: int) -> None:
        """Note *n* more tokens of a prompt; the last ones bring the first token of the answer."""
        self._kv.extend(sequence.seq, n)
        sequence.n_past += n
        self._tell_progress(sequence)
        if sequence.n_unread == 0:
            self._prefilling.remove(sequence)
            self._decoding.append(sequence)
            sequence.phase = Phase.DECODE
            self._may_admit = True
            if sequence.n_left(self._options.n_ctx) > 0:
                self._sample(sequence, output, self._clock())
            else:
                self._finish(sequence, "length")

    # --- tokens -----------------------------------------------------------------------------

    def _sample(self, sequence: Sequence, output: int, now: float) -> None:
        request, sampler = sequence.request, sequence.sampler
        assert sampler is not None
        raw = None
        if request.logprobs is not None:
            raw = RawDistribution(self._backend.logits(output), request.logprobs)
        token = sampler.sample(output, sequence.n_generated)
        if self._backend.is_eog(token):
            sequence.count_eog(now)
            self._finish(sequence, sequence.end_reason)
            return
        text_of = self._backend.token_bytes
        logprob = raw.of(token, text_of) if raw else None
        for event in sequence.append(token, text_of(token), logprob, now):
            self._out.add(sequence.job_id, event)
        if sequence.stop is not None or sequence.is_complete:
            self._finish(sequence, sequence.end_reason)
        elif sequence.n_left(self._options.n_ctx) <= 0:
            self._finish(sequence, "length")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        now = self._clock()
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        else:
            self._leave(sequence)
            self._kv.release(sequence.seq, sequence.tokens[: sequence.n_past])
        if sequence.sampler is not None:
            sequence.sampler.close()
        for event in sequence.finish(reason, now):
            self._out.add(sequence.job_id, event)
        self._inbox.close_one(sequence.service_s(now))
        self._may_admit = True

    def _leave(self, sequence: Sequence) -> None:
        """Take *sequence* out of the running ones."""
        if sequence.phase is Phase.DECODE:
            self._decoding.remove(sequence)
        else:
            self._prefilling.remove(sequence)
        self._slots[sequence.slot] = None
        self._may_admit = True
