"""The loop that owns a backend: it executes what step_plan decides.

Other threads leave commands in an inbox. Each step: commands, admission, one call for all decoding
sequences. The waiting prompts are read beside these calls where the backend can do that; elsewhere
slices of them follow each call, for as long as the decoding sequences may be kept waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct, structs

from spillover.runtime.backend import Backend, DecodeAborted, KvFull
from spillover.runtime.embedding.job import EmbeddingJob
from spillover.runtime.embedding.queue import EmbeddingQueue
from spillover.runtime.engine import PrefixCounts, SlotState
from spillover.runtime.events import Queued
from spillover.runtime.kv_cache.cache import KvCache, KvCacheOptions
from spillover.runtime.machine.device import available_memory
from spillover.runtime.scheduling.admission import Admission
from spillover.runtime.scheduling.beside import Beside
from spillover.runtime.scheduling.departure import Departure
from spillover.runtime.scheduling.embedding.turns import EmbeddingTurns
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.kv_moves import KvMoves
from spillover.runtime.scheduling.outbox import Emit, Outbox
from spillover.runtime.scheduling.outputs import Outputs
from spillover.runtime.scheduling.pace.cost_measurement import CostMeasurement
from spillover.runtime.scheduling.pace.pace import Pace
from spillover.runtime.scheduling.queues import Queues
from spillover.runtime.scheduling.running_call import RunningCall
from spillover.runtime.scheduling.sequence import Job
from spillover.runtime.scheduling.speculation import Speculation
from spillover.runtime.scheduling.step_plan import (
    StepPlan,
    next_step_s,
    plan_beside,
    plan_gap,
    plan_step,
    with_outputs,
)


class SchedulerOptions(Struct, frozen=True, kw_only=True):
    """Limits of a scheduler; n_ctx is in tokens per sequence."""

    n_ctx: int
    n_parallel: int
    max_queue: int
    max_gap_s: float
    kept: KvCacheOptions
    max_background: int = 0
    has_fixed_slices: bool = False
    """Whether prompts are cut without regard to measured times; for one sequence at a time."""
    speculates: bool = False
    """Whether tokens that probably follow are checked beside the last ones, where that is faster;
    for backends that can."""


class Scheduler:
    """Continuous batching of up to n_parallel sequences on one backend."""

    def __init__(
        self,
        backend: Backend,
        options: SchedulerOptions,
        emit: Emit,
        measurement: CostMeasurement,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[], int] = available_memory,
        embeddings: EmbeddingQueue | None = None,
        ask_for_memory: Callable[[int], None] | None = None,
    ) -> None:
        self._backend = backend
        self._emit = emit
        self._clock = clock
        self._out = Outbox(emit, clock)
        self._measurement = measurement
        self._pace = Pace(
            measurement,
            options.max_gap_s,
            backend.info.n_batch,
            has_fixed_slices=options.has_fixed_slices,
        )
        self._inbox = Inbox(options.n_parallel, options.max_queue, options.max_background)
        self._queues = Queues(options.n_parallel)
        self._ask_for_memory = ask_for_memory
        self._kv = KvCache(backend, options.kept, free_bytes, self._inbox.wake, self._ask_others)
        self._speculation: Speculation | None = None
        if options.speculates:
            self._speculation = Speculation(
                options.n_ctx,
                self._kv.has_room,
                options.max_gap_s,
                backend.draft_model,
                clock,
            )
        self._beside = Beside(backend.reader, self._inbox.wake, clock)
        self._departure = Departure(
            self._queues, self._kv, self._beside, self._out, self._inbox, clock
        )
        self._admission = Admission(
            backend, self._queues, self._kv, self._out, options.n_ctx, clock, self._departure
        )
        self._moves = KvMoves(
            self._kv, self._queues, self._admission, self._pace, self._inbox, clock
        )
        self._call = RunningCall(backend, self._kv, self._inbox, self._departure, self._speculation)
        self._outputs = Outputs(
            backend,
            self._queues,
            self._kv,
            self._out,
            options.n_ctx,
            clock,
            self._admission,
            self._departure,
        )
        self._stepped = float("-inf")
        """When the last call ended that gave the decoding sequences a token."""
        self._embeddings = None if embeddings is None else EmbeddingTurns(embeddings, self._pace)
        self._must_save_power = self._saves_power = False
        self.n_steps = 0
        """Calls of the backend so far."""

    # --- any thread -------------------------------------------------------------------------

    def submit(self, job: Job, *, unlimited: bool = False) -> None:
        """Queue a job and notify its client. Raises EngineBusy when the queue is full.

        *unlimited* is for jobs that were accepted by a process that died.
        """

        def accepted(ahead: int) -> None:
            queued = Queued(position=ahead, n_prompt_tokens=len(job.prompt))
            self._emit([(job.id, queued)])

        self._inbox.submit(job, accepted, unlimited=unlimited)
        self._measurement.interrupt()
        self._call.yield_to(job)

    def submit_embedding(self, job: EmbeddingJob, *, unlimited: bool = False) -> None:
        """The same for texts that become vectors."""
        assert self._embeddings is not None, "only models that give vectors get such jobs"
        self._embeddings.queue.accept(job, unlimited=unlimited)
        self._inbox.post(job)
        self._measurement.interrupt()

    def cancel(self, job_id: int) -> None:
        """End the rest of a job at the next step."""
        self._inbox.post(job_id)
        self._call.cancel(job_id)
        if self._embeddings is not None:
            self._embeddings.queue.interrupt(job_id)

    def save_power(self, *, is_on: bool) -> None:
        """Compute with less power from the next step on, or with all again."""
        self._must_save_power = is_on

    def _ask_others(self, n_bytes: int) -> bool:
        """Ask other models for memory, which may cost one of them its place, unless it is only for
        the background; whether they were asked."""
        if self._ask_for_memory is None or self._queues.has_only_background:
            return False
        self._ask_for_memory(n_bytes)
        return True

    def give_back(self, n_bytes: int) -> None:
        """Drop so much of what is saved of finished conversations, soon."""
        self._kv.give_back(n_bytes)

    def note_memory_answer(self) -> None:
        """Others have given back what they could."""
        self._kv.note_memory_answer()

    def stop(self) -> None:
        """Make run() return after the current step."""
        self._inbox.stop()
        self._measurement.interrupt()
        self._backend.abort()
        self._beside.abort()
        if self._embeddings is not None:
            self._embeddings.queue.embedder.abort()

    def slots(self) -> tuple[SlotState, ...]:
        """A snapshot for /slots."""
        return self._queues.slot_states()

    @property
    def n_queued(self) -> int:
        n_embedding = 0 if self._embeddings is None else self._embeddings.queue.n_open
        return max(self._inbox.n_open("normal") - self._queues.n_running, 0) + n_embedding

    @property
    def n_background(self) -> int:
        """Answers of the background, which run or wait."""
        return self._inbox.n_open("background")

    @property
    def n_kv_used(self) -> int:
        return self._kv.n_used

    @property
    def prefixes(self) -> PrefixCounts:
        return self._kv.counts

    # --- the loop ---------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stop(). Raises DecodeFailed when the backend cannot continue."""
        try:
            while self._take_commands():
                if self._beside.has_ended and self._may_take:
                    self._take_read()
                    self._set_power()  # the next batch may follow at once
                embeds = self._embeds_now
                if not self._queues.is_idle:
                    self._serve(embeds=embeds)
                elif not (self._beside.is_reading or embeds):
                    self._beside.rest()
                    self._measurement.measure_one(self._kv)
                if embeds:
                    self._embed()
        finally:
            self._beside.close()
            self._kv.close()

    def _take_commands(self) -> bool:
        """Wait for work if there is none; False when it is time to stop."""
        orders = self._inbox.take(wait_s=self._patience_s())
        if orders is None:
            return False
        if self._kv.take_news():
            self._queues.may_admit = True
        self._set_power()
        for order in orders:
            if isinstance(order, Job):
                self._admission.enqueue(order)
                continue
            if self._embeddings is not None:
                self._embeddings.take(order)
            if isinstance(order, int):
                for sequence in self._queues.of_job(order):
                    self._departure.finish(sequence, "cancelled")
        if orders:
            self._out.flush()
        return True

    def _set_power(self) -> None:
        """Compute with as much power as was asked for, unless a batch is being read."""
        if self._must_save_power != self._saves_power and not self._beside.is_reading:
            self._saves_power = self._must_save_power
            self._backend.save_power(is_on=self._saves_power)
            self._pace.save_power(is_on=self._saves_power)

    def _patience_s(self) -> float | None:
        """How long to wait for commands, or for what is read beside; None: as long as it takes."""
        queues = self._queues
        if self._embeddings:
            return 0
        if self._kv.is_waiting and not (queues.n_running or queues.may_admit):
            return None
        if queues.is_idle:
            if self._beside.has_ended:
                return 0
            return None if self._beside.is_reading else self._measurement.wait_s
        if not self._beside.is_reading or self._beside.has_ended or queues.may_admit:
            return 0
        if not queues.decoding:
            return 0 if queues.filling else None
        return 0 if self._has_time_for_part else self._pause_s

    @property
    def _has_time_for_part(self) -> bool:
        """Whether a prompt waits for parts of the KV cache to be moved, and one can be before the
        next decode step, while another prompt is read beside."""
        return self._moves.are_awaited and self._moves.part_s <= self._pause_s

    @property
    def _pause_s(self) -> float:
        """Seconds until the next decode step, while a prompt is read beside it."""
        due = self._stepped + self._pace.pause_s(len(self._queues.decoding))
        return max(due - self._clock(), 0.0)

    @property
    def _may_take(self) -> bool:
        """Whether there is time to take what was read before the next decode step is due, or that
        step has been made."""
        beside = self._beside
        assert beside.ended is not None
        if not self._queues.decoding or self._stepped >= beside.ended:
            return True
        return self._pace.take_s(beside.n_tokens) <= self._pause_s

    @property
    def _embeds_now(self) -> bool:
        """Whether texts become vectors before the next step. Where prompts are read beside, they
        need not take turns with these."""
        if self._embeddings is None:
            return False
        prompts_wait = bool(self._queues.prefilling) and not self._beside.is_reading
        return self._embeddings.have_turn(prompts_wait=prompts_wait)

    def _embed(self) -> None:
        """Make one call for vectors, as long as running answers may wait for it."""
        assert self._embeddings is not None
        self._out.flush()
        is_idle = self._queues.is_idle
        self._embeddings.run(None if is_idle else len(self._queues.decoding))
        self.n_steps += 1

    def _serve(self, *, embeds: bool) -> None:
        """Admit, and make a step if it is time for one. *embeds*: another call follows, before
        which the running answers have their step, and prompts none."""
        if self._queues.may_admit:
            self._admission.admit()
        if not self._queues.decoding:
            # An answer that gets cells of one that leaves while it is written has them in another
            # order than their positions, and so slightly other numbers.
            self._moves.make(0.0)
        if self._beside.can_read and not self._beside.is_reading:
            self._start_read()
        room_s: float | None = None
        if not (self._beside.is_reading or embeds):
            room_s = self._step()
        elif self._queues.decoding and (embeds or self._beside.has_ended or self._pause_s == 0):
            self._run(StepPlan(self._queues.decoding.copy()))
            room_s = 0.0 if embeds else self._pause_s
        elif self._queues.filling or self._has_time_for_part:
            room_s = self._pause_s
        self._out.after_step(next_step_s(self._queues, self._pace))
        if room_s is not None:
            self._moves.make(room_s)

    # --- a step -----------------------------------------------------------------------------

    def _start_read(self) -> None:
        slices = plan_beside(self._queues, self._pace)
        n_tokens = sum(n for _, n in slices)
        if slices and self._kv.make_room(n_tokens + len(self._queues.decoding)):
            self._beside.start(slices)
        elif not self._queues.prefilling:
            self._beside.rest()

    def _take_read(self) -> None:
        """Put what was read beside into the KV cache, and begin the answers whose prompts ended."""
        started = self._clock()
        while not self._departure.make_room(self._beside.n_tokens):
            pass
        try:
            reads = self._beside.take()
        except DecodeAborted:
            return
        except KvFull:
            self._departure.free_some_cells()
            return
        self.n_steps += 1
        if reads:
            self._pace.observe_take(sum(read.n for read in reads), self._clock() - started)
        for read in reads:
            self._outputs.take_read(read)
        self._out.flush()  # no step may follow

    def _step(self) -> float | None:
        """Make a step; the seconds that are left until the next one, if there are any."""
        plan = plan_step(self._queues, self._pace, self._clock() - self._stepped)
        if not (plan.decoding or plan.slices):
            return 0.0
        if self._speculation is not None and not self._queues.prefilling:
            plan = structs.replace(plan, drafts=self._speculation.drafts(plan.decoding))
        self._run(plan)
        if plan.gap_s is not None:
            self._out.flush()
            self._fill_gap(plan.gap_s, len(plan.decoding))
            return None
        return 0.0 if plan.slices else self._pace.gap_s(len(plan.decoding))

    def _fill_gap(self, gap_s: float, n_decoding: int) -> None:
        """Read slices of prompts until the decoding sequences should have their next step."""
        started, first_token_s = self._clock(), None
        self._moves.make(gap_s)
        while not self._inbox:
            left_s = gap_s - (self._clock() - started)
            plan = plan_gap(self._queues, self._pace, n_decoding, left_s, first_token_s)
            if plan is None or not self._run(plan):
                return
            first_token_s = first_token_s or (self._clock() - started) / plan.n_slice

    def _run(self, plan: StepPlan) -> bool:
        """Execute *plan*; False when nothing was done and the step must be planned again."""
        n_slice, n_decoding, n_drafted = plan.n_slice, len(plan.decoding), plan.n_drafted
        if not self._departure.make_room(n_decoding + n_slice + n_drafted):
            return False
        depth = plan.depth if n_slice else 0
        started = self._clock()
        if not self._call.make(plan):
            return False
        self.n_steps += 1
        now = self._clock()
        if n_slice:
            self._pace.observe_slice(n_slice, depth, n_decoding, now - started)
        elif self._beside.is_reading:
            self._pace.observe_beside(n_decoding, now - started)
        else:
            if not n_drafted:
                self._pace.observe_decode(n_decoding, now - started)
            if self._speculation is not None:
                self._speculation.observe(n_decoding, len(plan.drafts), n_drafted, now - started)
        n_decoded = self._outputs.take_decoded(plan, now)
        if plan.decoding:
            self._stepped = self._clock()
        for read in with_outputs(plan.slices, n_decoded):
            self._outputs.take_read(read)
        return True
