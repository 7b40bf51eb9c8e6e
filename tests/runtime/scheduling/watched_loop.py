"""A scheduler in a thread of its own, with a clock that its calls move by what they cost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spillover.runtime.backend import Backend, Rows
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.events import EngineEvent
from spillover.runtime.kv_cache.cache import KvCacheOptions
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from spillover.runtime.scheduling.inbox import Order
from spillover.runtime.scheduling.pace.cost_measurement import CostMeasurement, SavedCostTables
from spillover.runtime.scheduling.pace.slice_costs import SavedCosts
from spillover.runtime.scheduling.scheduler import Scheduler, SchedulerOptions
from spillover.runtime.scheduling.sequence import Job
from tests.loading import load

DECODE_S = 0.037
SLICE_S = {1: 0.017, 4: 0.027, 8: 0.051, 16: 0.094, 24: 0.171, 32: 0.272, 48: 0.530, 64: 0.230,
           128: 0.514, 256: 1.163, 512: 2.887}  # fmt: skip
"""Measured once on two cores, model of 0.4B: sizes between 24 and 63 are the dearest."""

MAX_GAP_S = 0.33


class Call:
    """What one decode call carried, and when it began on the clock."""

    def __init__(self, batch: Sequence[Rows], at: float) -> None:
        self.at = at
        self.decoded = [rows.seq for rows in batch if len(rows.tokens) == 1]
        self.n_slice = sum(len(rows.tokens) for rows in batch if len(rows.tokens) > 1)

    @property
    def cost_s(self) -> float:
        if self.n_slice == 0:
            return DECODE_S
        size = min(n for n in SLICE_S if n >= self.n_slice)
        return SLICE_S[size] + (DECODE_S if self.decoded else 0.0)


class Loop:
    """A scheduler in a thread of its own."""

    def __init__(
        self,
        backend: Backend,
        n_parallel: int,
        *,
        n_ctx: int = 1024,
        speculates: bool = False,
        saved_bytes: int = 0,
    ) -> None:
        self.now = 0.0
        self.free_bytes = 1 << 40
        self.on_shortage: Callable[[int], None] = lambda _: self.scheduler.note_memory_answer()
        """Nobody else has memory, unless a test says so."""
        self.calls: list[Call] = []
        self.events: queue.SimpleQueue[tuple[int, EngineEvent]] = queue.SimpleQueue()
        self.before_call: Callable[[], None] = lambda: None
        self._real = backend.decode
        backend.decode = self._decode  # type: ignore[method-assign]  # the real one, watched
        costs = SavedCosts(per_call_s=SLICE_S, per_token_and_cell_s={})
        nothing = SavedCosts(per_call_s={}, per_token_and_cell_s={})
        saved = SavedCostTables(pure=costs, mixed=nothing)
        self.scheduler = Scheduler(
            backend,
            SchedulerOptions(
                n_ctx=n_ctx, n_parallel=n_parallel, max_queue=8, max_gap_s=MAX_GAP_S,
                kept=KvCacheOptions(n_kept=2, saved_bytes=saved_bytes), max_background=8,
                speculates=speculates,
            ),
            self._emit,
            CostMeasurement(backend, saved, lambda _: None),
            lambda: self.now,
            lambda: self.free_bytes,
            ask_for_memory=lambda n_bytes: self.on_shortage(n_bytes),
        )  # fmt: skip
        self._take = self.scheduler._inbox.take
        self.scheduler._inbox.take = self._wait  # type: ignore[method-assign]  # on our clock
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.scheduler.run()
        except BaseException as error:
            self.error = error

    def _wait(self, *, wait_s: float | None) -> list[Order] | None:
        if wait_s is None:
            return self._take(wait_s=None)
        orders = self._take(wait_s=0)
        if not orders and orders is not None:
            self.now += wait_s
        return orders

    def _decode(self, batch: Sequence[Rows]) -> None:
        self.before_call()
        call = Call(batch, self.now)
        self.calls.append(call)
        self._real(batch)
        self.now += call.cost_s

    def _emit(self, events: list[tuple[int, EngineEvent]]) -> None:
        for event in events:
            self.events.put(event)

    def submit(
        self, job_id: int, n_prompt: int, *, prompt_of: int | None = None, **fields: Any
    ) -> None:
        first = 300 + 7 * (prompt_of or job_id)
        prompt = np.arange(first, first + n_prompt, dtype=np.int32)
        request = GenerationRequest(
            prompt=tuple(prompt.tolist()), sampling=Sampling(temperature=0), ignore_eos=True,
            **fields,
        )  # fmt: skip
        pipelines = tuple(TextPipeline((), split_reasoning=False) for _ in range(request.n))
        self.scheduler.submit(
            Job(id=job_id, request=request, prompt=prompt, seed=0, pipelines=pipelines)
        )

    def wait_for(self, job_id: int, kind: type[EngineEvent]) -> EngineEvent:
        while True:
            found_id, event = self.events.get(timeout=60)
            if found_id == job_id and isinstance(event, kind):
                return event

    def stop(self) -> None:
        self.scheduler.stop()
        self.join()

    def join(self) -> None:
        """Until run() has returned."""
        self._thread.join(60)
        assert not self._thread.is_alive()


def loop_on(path: Path, n_kv: int = 4096, saved_bytes: int = 0) -> Iterator[Loop]:
    options = EngineOptions(n_parallel=4, n_ctx=1024, n_kv=n_kv, n_threads=1)
    backend = load(path, "storyteller", options).backend
    loop = Loop(backend, n_parallel=4, saved_bytes=saved_bytes)
    yield loop
    loop.stop()
    backend.close()
