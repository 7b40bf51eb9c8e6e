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
from spillover.runtime.engine import SlotState
from spillover.runtime.events import FinishReason, Prefilling, Queued
from spillover.runtime.logprobs import RawDistribution
from spillover.runtime.scheduling.calibration import Calibration
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.kv_cache import KvCache
from spillover.runtime.scheduling.outbox import Emit, Outbox
from spillover.runtime.scheduling.pace import Pace
from spillover.runtime.scheduling.sequence import Job, Phase, Sequence, Slice, share, slot_states
from spillover.runtime.scheduling.slice_plan import SlicePlan

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
        self._pace = Pace(calibration, options.max_gap_s, backend.info.n_batch)
        self._kv = KvCache(backend, options.n_prefix_cached, options.shelf_bytes)
        self._inbox = Inbox(options.n_parallel, options.max_queue)
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._decoding: list[Sequence] = []
        self._slots: list[Sequence | None] = [None] * options.n_parallel
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
        return slot_states(list(self._slots))

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
            first = self._prefilling[0]
            n = self._pace.alone(first.n_unread, self._n_unread, first.n_past)
            self._run([], share(n, self._prefilling))
        elif self._decoding:
            self._run(self._decoding, [])

    def _step_both(self) -> None:
        """Decode rows first, then slices of prompts until the running ones want their turn."""
        n_rows = len(self._decoding)
        room_s = self._pace.room_s(self._n_unread, self._prefilling[0].n_past, n_rows)
        plan = self._plan(n_rows, room_s)
        if plan.mixed:
            self._run(self._decoding, share(plan.n_tokens, self._prefilling))
            return
        self._run(self._decoding, [])
        self._out.flush()
        started, first_token_s = self._clock(), None
        while self._prefilling and not self._inbox:
            left_s = room_s - (self._clock() - started)
            n, depth = self._plan(n_rows, left_s).n_tokens, self._prefilling[0].n_past
            if first_token_s and not self._pace.is_worth_it(n, depth, left_s, first_token_s):
                return
            if not self._run([], share(n, self._prefilling)):
                return
            first_token_s = first_token_s or (self._clock() - started) / n

    @property
    def _n_unread(self) -> int:
        return sum(sequence.n_unread for sequence in self._prefilling)

    def _plan(self, n_rows: int, room_s: float) -> SlicePlan:
        return self._pace.between(self._n_unread, self._prefilling[0].n_past, n_rows, room_s)

    def _next_step_s(self) -> float | None:
        """Seconds until the next step's text, where only decoding is ahead."""
        if self._prefilling or self._may_admit:
            return None
        return self._pace.decode_s(len(self._decoding))

    def _run(self, decoding: list[Sequence], slices: list[Slice]) -> bool:
        """One call: a token for each of *decoding*, and so many tokens of each prompt. False when
        it came to nothing."""
        n_slice = sum(n for _, n in slices)
        if not self._claim(len(decoding) + n_slice):
            return False
        decoding = decoding.copy()
        batch = [Rows(s.seq, s.n_past, s.tokens[s.n_past :], True) for s in decoding]
        for s, n in slices:
            tokens = s.tokens[s.n_past : s.n_past + n]
            batch.append(Rows(s.seq, s.n_past, tokens, n == s.n_unread))
        depth = sum(n * s.n_past for s, n in slices) // max(n_slice, 1)
        started = self._clock()
        if not self._call(batch, slices[0][0] if len(batch) == len(slices) == 1 else None):
            return False
        now = self._clock()
        if slices:
            self._pace.observe_slice(n_slice, depth, len(decoding), now - started)
        else:
            self._pace.observe_decode(len(decoding), now - started)
        self._take(decoding, slices, now)
        return True

    def _take(self, decoding: list[Sequence], slices: list[Slice], now: float) -> None:
        """What a call has brought: outputs come in the order of its rows."""
        for output, sequence in enumerate(decoding):
            self._kv.extend(sequence.seq, 1)
            sequence.n_past += 1
            self._sample(sequence, output, now)
        output = len(decoding)
        for sequence, n in slices:
            wants_logits = n == sequence.n_unread
            self._read(sequence, n, output)
            output += wants_logits

    def _call(self, batch: list[Rows], alone: Sequence | None) -> bool:
        """Run the backend; False when nothing was read. A call that is for *alone* only is not
        begun, or is ended, when its job is cancelled."""
        self._slicing = alone
        try:
            if alone is not None and self._inbox:
                return False
            self._backend.decode(batch)
        except DecodeAborted:
            for rows in batch:
                self._kv.rewind(rows.seq)
            return False
        except KvFull:
            self._yield_cells()
            return False
        finally:
            self._slicing = None
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
        self._out.add(sequence.job_id, Queued(position=0, n_prompt_tokens=sequence.n_prompt))

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
