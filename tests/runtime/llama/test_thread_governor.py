"""How many threads compute beside other programs, on simulated machines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.backend import Rows
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.llama.library import lib
from spillover.runtime.llama.thread_governor import (
    BLIND_WAIT_S,
    FIRST_WAIT_S,
    MOST_PATIENCE,
    ThreadGovernor,
)
from spillover.runtime.machine import device

CALL_S = 0.1


class Machine:
    """Gives *n_free* cores to whoever asks, and says that *n_idle* do nothing."""

    def __init__(self, n_free: float, n_idle: float = 0.0) -> None:
        self.n_free, self.n_idle = n_free, n_idle

    def idle(self) -> float:
        return self.n_idle

    def free(self) -> float:
        return self.n_idle

    def run(self, governor: ThreadGovernor, seconds: float) -> list[int]:
        """The threads of each call."""
        threads = []
        for _ in range(round(seconds / CALL_S)):
            threads.append(governor.n_threads)
            n_got = min(float(governor.n_threads), self.n_free)
            governor.observe(CALL_S, n_got * CALL_S)
        return threads


def test_alone_on_the_machine_all_threads_compute() -> None:
    machine = Machine(n_free=4)
    assert set(machine.run(ThreadGovernor(4, machine), 60)) == {4}


@pytest.mark.parametrize(
    ("n_most", "n_free", "n_fitting", "n_calls"),
    [(2, 1.5, 1, 2), (8, 7.4, 7, 2), (2, 1.0, 1, 1), (4, 0.3, 1, 1)],
)
def test_a_busy_core_soon_costs_a_thread_and_a_lost_core_costs_one_at_once(
    n_most: int, n_free: float, n_fitting: int, n_calls: int
) -> None:
    machine = Machine(n_free)
    governor = ThreadGovernor(n_most, machine)
    assert machine.run(governor, 4) == [n_most] * n_calls + [n_fitting] * (40 - n_calls)


def test_a_single_hiccup_costs_no_thread() -> None:
    machine = Machine(n_free=2)
    governor = ThreadGovernor(2, machine)
    for _ in range(5):
        machine.n_free = 1.5
        assert machine.run(governor, CALL_S) == [2]
        machine.n_free = 2
        assert set(machine.run(governor, 3 * CALL_S)) == {2}


def test_a_little_noise_costs_no_thread() -> None:
    machine = Machine(n_free=1.7)
    assert set(machine.run(ThreadGovernor(2, machine), 10)) == {2}


def test_short_calls_are_judged_together() -> None:
    governor = ThreadGovernor(2, Machine(n_free=2))
    for _ in range(9):
        assert governor.observe(0.005, 0.004) == 2
    assert governor.observe(0.006, 0.005) == 1


def test_a_core_that_is_free_again_is_used_soon() -> None:
    machine = Machine(n_free=1)
    governor = ThreadGovernor(2, machine)
    machine.run(governor, 4)
    machine.n_free, machine.n_idle = 2, 1.0
    threads = machine.run(governor, FIRST_WAIT_S + 2 * CALL_S)
    assert threads[-1] == 2
    assert set(machine.run(governor, 20)) == {2}


def test_cores_that_were_idle_in_a_pause_are_used_at_once() -> None:
    machine = Machine(n_free=1)
    governor = ThreadGovernor(4, machine)
    machine.run(governor, 5)
    assert governor.rest() == 1
    machine.n_free, machine.n_idle = 4, 2.9
    assert governor.rest() == 3
    machine.n_idle = 9.0
    assert governor.rest() == 4
    assert set(machine.run(governor, 5)) == {4}


def test_a_call_does_not_begin_with_threads_that_find_no_core() -> None:
    # One call beside busy programs took eight seconds before the first judgement.
    machine = Machine(n_free=1, n_idle=1.2)
    governor = ThreadGovernor(4, machine)
    assert governor.rest() == 1
    machine.n_idle = 2.7
    assert governor.rest() == 3


def test_a_try_that_misses_half_a_core_ends_at_once() -> None:
    machine = Machine(n_free=1, n_idle=1.0)
    governor = ThreadGovernor(2, machine)
    machine.run(governor, CALL_S)
    while governor.n_threads == 1:
        machine.run(governor, CALL_S)
    assert governor.observe(CALL_S, 1.5 * CALL_S) == 1


def test_tries_that_fail_cost_a_small_part_of_the_time_however_slow_they_are() -> None:
    governor = ThreadGovernor(2, Machine(n_free=1, n_idle=1.0))
    spent_s = {1: 0.0, 2: 0.0}
    for _ in range(100_000):
        n_threads = governor.n_threads
        call_s = 0.004 if n_threads == 1 else 1.5
        spent_s[n_threads] += call_s
        governor.observe(call_s, call_s)
    assert 0 < spent_s[2] < 0.1 * spent_s[1]


def test_all_cores_come_back_one_after_the_other() -> None:
    machine = Machine(n_free=1)
    governor = ThreadGovernor(6, machine)
    machine.run(governor, 1)
    machine.n_free, machine.n_idle = 6, 3.0
    assert machine.run(governor, 6 * (FIRST_WAIT_S + 2 * CALL_S))[-1] == 6


def test_tries_that_fail_become_rare() -> None:
    """Idle cores that a quota keeps from us."""
    machine = Machine(n_free=1, n_idle=5.0)
    governor = ThreadGovernor(2, machine)
    machine.run(governor, 20)
    n_tries = machine.run(governor, 100).count(2)
    assert 1 <= n_tries <= 100 / (MOST_PATIENCE * FIRST_WAIT_S) + 1


def test_without_an_idle_core_one_more_thread_is_tried_once_in_a_while() -> None:
    machine = Machine(n_free=1)
    governor = ThreadGovernor(2, machine)
    assert machine.run(governor, BLIND_WAIT_S).count(2) == 1
    machine.n_free = 1.8  # the others have a lower priority now
    assert machine.run(governor, MOST_PATIENCE * BLIND_WAIT_S)[-1] == 2


@given(
    st.integers(1, 16),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 20), st.floats(0, 20)), max_size=60),
)
def test_there_is_always_a_thread_and_never_too_many(
    n_most: int, calls: list[tuple[float, float, float]]
) -> None:
    machine = Machine(n_free=0)
    governor = ThreadGovernor(n_most, machine)
    for wall_s, n_got, machine.n_idle in calls:
        assert 1 <= governor.observe(wall_s, wall_s * n_got) <= n_most
        assert 1 <= governor.rest() <= n_most


def test_idle_cores_are_counted_since_the_last_question(monkeypatch: pytest.MonkeyPatch) -> None:
    now, idle_s = 100.0, 5000.0
    monkeypatch.setattr(device, "_idle_s", lambda: idle_s)
    cores = device.OurCores(clock=lambda: now, cpu_clock=lambda: now / 2)
    now, idle_s = now + 2.0, idle_s + 3.0
    assert cores.idle() == pytest.approx(1.5)
    now = now + 1.0
    assert cores.idle() == 0.0
    assert cores.idle() == 0.0
    now, idle_s = now + 2.0, idle_s + 3.0
    assert cores.free() == pytest.approx(2.0)  # half a core worked for us
    now, idle_s = now + 0.01, idle_s + 0.02
    assert cores.free() == 0.0


def test_this_machine_s_cores_are_idle_between_none_and_all() -> None:
    before = device._idle_s()
    assert 0 < before <= device._idle_s()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are governed on Linux only")
def test_a_backend_computes_with_as_many_threads_as_its_governor_says(model_path: Path) -> None:
    config = LlamaConfig(
        n_kv=512, n_seq=2, n_batch=256, n_threads=2, n_gpu_layers=0, kv_cache_type="f16",
        use_extra_bufts=True,
    )  # fmt: skip
    backend = LlamaBackend(model_path, config)
    backend.read_prompts_apart()
    governor = backend._governor
    assert governor is not None
    observe: Callable[[float, float], int] = governor.observe
    governor.observe = lambda wall_s, cpu_s: 2  # type: ignore[method-assign]
    governor.rest = lambda: 2  # type: ignore[method-assign]
    tokens = np.arange(300, 350, dtype=np.int32)
    backend.decode([Rows(0, 0, tokens, True)])  # makes the second context
    contexts = [backend._main.handle, backend._row_of(0)[0]]
    try:
        assert [lib.llama_n_threads(context) for context in contexts] == [2, 2]
        governor.observe = lambda wall_s, cpu_s: observe(1.0, 1.2)  # type: ignore[method-assign]
        backend.keep(0, 0)
        backend.decode([Rows(0, 0, tokens, True)])
        with_two = backend.logits(0).copy()
        backend.keep(0, 0)
        backend.decode([Rows(0, 0, tokens, True)])
        assert [lib.llama_n_threads(context) for context in contexts] == [1, 1]
        assert np.allclose(backend.logits(0), with_two, atol=0.2)
    finally:
        backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are governed on Linux only")
@pytest.mark.parametrize("adapt", [True, False])
def test_models_of_every_size_are_governed_unless_the_owner_says_no(
    model_path: Path, adapt: bool
) -> None:
    config = LlamaConfig(
        n_kv=256, n_seq=1, n_batch=64, n_threads=2, n_gpu_layers=0, kv_cache_type="f16",
        use_extra_bufts=True, adapt_threads=adapt,
    )  # fmt: skip
    backend = LlamaBackend(model_path, config)
    assert (backend._governor is not None) == adapt
    backend.close()


@pytest.mark.parametrize("adapt", [True, False])
def test_half_of_the_threads_compute_while_power_is_saved(model_path: Path, adapt: bool) -> None:
    config = LlamaConfig(
        n_kv=256, n_seq=1, n_batch=64, n_threads=3, n_gpu_layers=0, kv_cache_type="f16",
        use_extra_bufts=True, adapt_threads=adapt,
    )  # fmt: skip
    backend = LlamaBackend(model_path, config)
    backend.save_power(is_on=True)
    assert backend._n_threads == 2
    backend.decode([Rows(0, 0, np.zeros(4, dtype=np.int32), True)])
    assert backend._n_threads <= 2
    backend.save_power(is_on=False)
    assert adapt or backend._n_threads == 3
    backend.close()
