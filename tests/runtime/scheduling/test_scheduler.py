"""The scheduler's loop on the real model, with a clock that its calls move by what they cost."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spillover.runtime.backend import Backend, DecodeAborted, Rows
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.events import Delta, EngineEvent, Finished, Prefilling
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from spillover.runtime.scheduling.cost_measurement import CostMeasurement, SavedCostTables
from spillover.runtime.scheduling.scheduler import Scheduler, SchedulerOptions
from spillover.runtime.scheduling.sequence import Job
from spillover.runtime.scheduling.slice_costs import SavedCosts
from spillover.runtime.worker.loading import load

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

    def __init__(self, backend: Backend, n_parallel: int) -> None:
        self.now = 0.0
        self.free_bytes = 1 << 40
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
                n_ctx=1024, n_parallel=n_parallel, max_queue=8, max_gap_s=MAX_GAP_S,
                n_prefix_cached=2,
            ),
            self._emit,
            CostMeasurement(backend, saved, lambda _: None),
            lambda: self.now,
            lambda: self.free_bytes,
        )  # fmt: skip
        self._thread = threading.Thread(target=self.scheduler.run)
        self._thread.start()

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
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def loop(model_path: Path) -> Iterator[Loop]:
    options = EngineOptions(n_parallel=4, n_ctx=1024, n_kv=4096, n_threads=1)
    backend = load(model_path, "storyteller", options).backend
    loop = Loop(backend, n_parallel=4)
    yield loop
    loop.stop()
    backend.close()


def test_running_streams_wait_no_longer_than_allowed_while_a_long_prompt_is_read(
    loop: Loop,
) -> None:
    arrived = threading.Event()

    def let_the_newcomer_in() -> None:
        if len(loop.calls) == 20 and not arrived.is_set():
            arrived.set()
            loop.submit(9, 900, max_tokens=1)

    loop.before_call = let_the_newcomer_in
    for job_id in (1, 2, 3):
        loop.submit(job_id, 20, max_tokens=120)
    loop.wait_for(9, Finished)
    loop.scheduler.cancel(1)
    calls = loop.calls[20:]
    slices = [call for call in calls if call.n_slice]
    assert sum(call.n_slice for call in slices) >= 890
    steps = [call.at for call in calls if len(call.decoded) >= 3]
    assert max(b - a for a, b in itertools.pairwise(steps)) <= MAX_GAP_S
    assert {call.n_slice for call in slices[:-1]} == {64}


def test_alone_a_prompt_is_read_in_the_fastest_slices(loop: Loop) -> None:
    loop.submit(1, 900, max_tokens=1)
    loop.wait_for(1, Finished)
    assert {call.n_slice for call in loop.calls[:-1]} == {64}


def test_cancelling_an_unknown_job_does_no_harm(loop: Loop) -> None:
    # Used to end the worker, once everything was measured.
    loop.scheduler.cancel(99)
    while len(loop.scheduler._inbox):
        pass
    loop.submit(1, 20, max_tokens=3)
    loop.wait_for(1, Finished)
    loop.scheduler.cancel(1)
    loop.submit(2, 20, max_tokens=3)
    end = loop.wait_for(2, Finished)
    assert isinstance(end, Finished)
    assert end.reason == "length"


def test_short_prompts_that_wait_are_read_together(loop: Loop) -> None:
    def all_come_while_the_first_is_read() -> None:
        if len(loop.calls) == 0:
            for job_id in (2, 3, 4):
                loop.submit(job_id, 30, max_tokens=5)

    loop.before_call = all_come_while_the_first_is_read
    loop.submit(1, 30, max_tokens=5)
    for job_id in (2, 3, 4):
        end = loop.wait_for(job_id, Finished)
        assert isinstance(end, Finished)
        assert end.usage.completion_tokens == 5
    slices = [call.n_slice for call in loop.calls if call.n_slice]
    assert sum(slices) >= 118
    assert max(slices) == 64


@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_cancel_frees_the_place_in_every_phase(loop: Loop, phase: str) -> None:
    waits = 0 if phase != "queue" else 4
    for job_id in range(1, waits + 1):
        loop.submit(job_id, 20, max_tokens=900)
    if phase == "prefill":
        # In the middle of its prompt, by another thread than the loop's, as intake does.
        def cancel_at_the_third_slice() -> None:
            if len(loop.calls) == 3:
                thread = threading.Thread(target=loop.scheduler.cancel, args=(9,))
                thread.start()
                thread.join()

        loop.before_call = cancel_at_the_third_slice
    loop.submit(9, 900, max_tokens=900)
    if phase == "decode":
        loop.wait_for(9, Delta)
    if phase != "prefill":
        loop.scheduler.cancel(9)
    end = loop.wait_for(9, Finished)
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    for job_id in range(1, waits + 1):
        loop.scheduler.cancel(job_id)
        loop.wait_for(job_id, Finished)
    assert all(slot.state == "idle" for slot in loop.scheduler.slots())
    assert loop.scheduler.n_queued == 0
    if phase == "prefill":
        assert sum(call.n_slice for call in loop.calls) < 900


def test_progress_is_reported_slice_by_slice(loop: Loop) -> None:
    loop.submit(1, 300, max_tokens=1)
    n_read = []
    while True:
        _, event = loop.events.get(timeout=60)
        if isinstance(event, Prefilling):
            n_read.append(event.n_read)
        if isinstance(event, Finished):
            break
    slices = [b - a for a, b in itertools.pairwise(n_read)]
    assert (n_read[0], n_read[-1]) == (0, 300)
    assert len(slices) > 1
    assert not any(n <= 0 or 24 <= n < 64 for n in slices)


def test_zero_tokens_only_read_the_prompt(loop: Loop) -> None:
    loop.submit(1, 300, max_tokens=0)
    end = loop.wait_for(1, Finished)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == ("length", 0)
    assert sum(call.n_slice for call in loop.calls) == 300


def test_tokens_lost_in_an_aborted_call_are_read_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A recurrent state cannot be wound back: it used to be continued as if it were still there.
    loop.submit(1, 100, max_tokens=10)
    wanted = _answer_of(loop, 1)
    backend = loop.scheduler._backend
    keep = backend.keep

    def abort_the_fifth_call() -> None:
        if len(loop.calls) == n_before + 4:
            monkeypatch.setattr(backend, "keep", lambda seq, n: keep(seq, 0))
            loop.calls.append(Call([], loop.now))
            raise DecodeAborted

    n_before = len(loop.calls)
    loop.before_call = abort_the_fifth_call
    loop.submit(2, 100, prompt_of=1, max_tokens=10, reuse_prefix=False)
    assert _answer_of(loop, 2) == wanted


def _answer_of(loop: Loop, job_id: int) -> list[int]:
    """The tokens of an answer, when it has ended."""
    tokens: list[int] = []
    while True:
        found_id, event = loop.events.get(timeout=60)
        if found_id == job_id and isinstance(event, Delta):
            tokens += event.token_ids
        if found_id == job_id and isinstance(event, Finished):
            return tokens


def test_without_memory_for_all_streams_one_waits_and_every_one_is_answered_whole(
    loop: Loop,
) -> None:
    if not loop.scheduler._backend.info.kv_bytes_per_cell:
        pytest.skip("the KV cache took all its memory at load")

    def run_out_of_memory() -> None:
        if len(loop.calls) == 20:
            loop.free_bytes = 0

    loop.before_call = run_out_of_memory
    for job_id in (1, 2, 3):
        loop.submit(job_id, 20, max_tokens=400)
    ends = [loop.wait_for(job_id, Finished) for job_id in (1, 2, 3)]
    assert [end.usage.completion_tokens for end in ends if isinstance(end, Finished)] == [400] * 3
    assert max(len(call.decoded) for call in loop.calls[:20]) == 3
    assert min(len(call.decoded) for call in loop.calls[20:]) < 3


def test_where_there_is_no_memory_at_all_an_answer_ends_and_the_next_one_is_taken(
    loop: Loop,
) -> None:
    if not loop.scheduler._backend.info.kv_bytes_per_cell:
        pytest.skip("the KV cache took all its memory at load")
    loop.free_bytes = 0
    loop.submit(1, 20, max_tokens=5)
    end = loop.wait_for(1, Finished)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == ("length", 0)
    loop.free_bytes = 1 << 40
    loop.submit(2, 20, max_tokens=5)
    assert len(_answer_of(loop, 2)) == 5
