"""A newcomer's prompt is read while streams run: beside them, in slices between their tokens, and
alone. The scheduler runs in this process; what is compared takes turns."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Backend
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.events import Delta, EngineEvent, Finished
from spillover.runtime.kv_cache.cache import KvCacheOptions
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from spillover.runtime.scheduling.beside import Beside
from spillover.runtime.scheduling.pace.cost_measurement import CostMeasurement, SavedCostTables
from spillover.runtime.scheduling.scheduler import Scheduler, SchedulerOptions
from spillover.runtime.scheduling.sequence import Job
from tests.loading import load

N_PROMPT = 60
"""Tokens of the prompts of the streams that run."""

N_WARM = 20
"""Tokens of each stream before the newcomer arrives."""


class Figures(Protocol):
    def add(self, name: str, value: float) -> None: ...


class Run(Struct):
    """One newcomer: how it is read, beside how many streams, and with how many tokens."""

    way: str
    n_streams: int
    n_prompt: int
    max_gap_ms: float

    @property
    def name(self) -> str:
        kind = f"{self.way} {self.max_gap_ms:.0f} ms" if self.n_streams else "alone"
        return f"{self.n_prompt} tokens/{self.n_streams} streams/{kind}"


class Asked(Struct):
    """Which runs to make."""

    lengths: list[int]
    gaps_ms: list[float]
    n_streams: list[int]


class Bench:
    """A scheduler on *backend*, and when each event of each job came."""

    def __init__(
        self, backend: Backend, n_ctx: int, tables: SavedCostTables | None, run: Run
    ) -> None:
        self.times: dict[int, list[float]] = {}
        self.measured: queue.SimpleQueue[SavedCostTables] = queue.SimpleQueue()
        self._ended: dict[int, threading.Event] = {}
        self._n_left: dict[int, tuple[int, threading.Event]] = {}
        self._ids = itertools.count(1)
        self.scheduler = Scheduler(
            backend,
            SchedulerOptions(
                n_ctx=n_ctx,
                n_parallel=8,
                max_queue=8,
                max_gap_s=run.max_gap_ms / 1e3,
                kept=KvCacheOptions(n_kept=0),
            ),
            self._emit,
            CostMeasurement(backend, tables, self.measured.put),
        )
        if run.way != "beside":
            self.scheduler._beside = Beside(None, lambda: None, time.monotonic)
        self._thread = threading.Thread(target=self.scheduler.run)
        self._thread.start()

    def _emit(self, events: list[tuple[int, EngineEvent]]) -> None:
        now = time.perf_counter()
        for job_id, event in events:
            if isinstance(event, Delta):
                times = self.times[job_id]
                times.append(now)
                n, reached = self._n_left[job_id]
                if len(times) >= n:
                    reached.set()
            elif isinstance(event, Finished):
                self._ended[job_id].set()

    def start(self, n_prompt: int, max_tokens: int, n_wanted: int) -> tuple[int, threading.Event]:
        """Begin an answer; the event is set when it has *n_wanted* tokens."""
        job_id = next(self._ids)
        first = 300 + job_id * 37
        prompt = ((first + np.arange(n_prompt, dtype=np.int32) * 31) % 3000 + 300).astype(np.int32)
        request = GenerationRequest(
            prompt=tuple(prompt.tolist()),
            sampling=Sampling(temperature=0.8),
            max_tokens=max_tokens,
            ignore_eos=True,
            reuse_prefix=False,
        )
        reached = threading.Event()
        self.times[job_id] = []
        self._n_left[job_id] = (n_wanted, reached)
        self._ended[job_id] = threading.Event()
        pipelines = (TextPipeline((), split_reasoning=False),)
        self.scheduler.submit(
            Job(id=job_id, request=request, prompt=prompt, seed=job_id, pipelines=pipelines)
        )
        return job_id, reached

    def wait(self, job_id: int) -> None:
        """Until the answer has ended."""
        self._ended[job_id].wait()

    def close(self) -> None:
        self.scheduler.stop()
        self._thread.join()


def newcomer(bench: Bench, run: Run) -> dict[str, float]:
    """Seconds to the newcomer's first token, and the largest gap of the others meanwhile."""
    running = [bench.start(N_PROMPT, 100_000, N_WARM) for _ in range(run.n_streams)]
    for _, reached in running:
        reached.wait()
    asked = time.perf_counter()
    job_id, reached = bench.start(run.n_prompt, 8, 4)
    reached.wait()
    first = bench.times[job_id][0]
    bench.wait(job_id)
    for other, _ in running:
        bench.scheduler.cancel(other)
        bench.wait(other)
    found = {"first token s": first - asked}
    gaps = [
        b - a
        for other, _ in running
        for a, b in itertools.pairwise(bench.times[other])
        if b > asked and a < first
    ]
    if gaps:
        found["largest gap s"] = max(gaps)
        found["median gap s"] = float(np.median(gaps))
    return found


@contextlib.contextmanager
def benched(
    backend: Backend, n_ctx: int, tables: SavedCostTables | None, run: Run
) -> Iterator[Bench]:
    bench = Bench(backend, n_ctx, tables, run)
    try:
        yield bench
    finally:
        bench.close()


def tables_of(backend: Backend, n_ctx: int) -> SavedCostTables:
    """What an idle worker measures at its first start."""
    with benched(backend, n_ctx, None, Run("alone", 0, 1, 250.0)) as bench:
        return bench.measured.get()


def runs(asked: Asked) -> Iterator[Run]:
    for n_prompt in asked.lengths:
        yield Run("alone", 0, n_prompt, asked.gaps_ms[0])
        for n in asked.n_streams:
            for gap_ms in asked.gaps_ms:
                yield Run("beside", n, n_prompt, gap_ms)
            yield Run("slices", n, n_prompt, asked.gaps_ms[0])


def reading(model: Path, figures: Figures, repeat: int, asked: Asked) -> None:
    """Every kind of run, in turns; first tokens also as ratios to the one alone of the round."""
    n_ctx = max(asked.lengths) + 512
    options = EngineOptions(n_ctx=n_ctx, n_kv=2 * n_ctx + 4096, n_parallel=8)
    backend = load(model, "model", options).backend
    tables = tables_of(backend, n_ctx)
    for _ in range(repeat):
        alone_s = 0.0
        for run in runs(asked):
            with benched(backend, n_ctx, tables, run) as bench:
                found = newcomer(bench, run)
            if not run.n_streams:
                alone_s = found["first token s"]
            else:
                figures.add(f"{run.name}/first token, ratio", found["first token s"] / alone_s)
            for name, value in found.items():
                figures.add(f"{run.name}/{name}", value)
    backend.close()
