"""How many threads a small model computes with, measured once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.runtime.backend import Rows
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.llama.opening import thread_choice
from spillover.runtime.llama.opening.thread_choice import choose_threads, measure
from spillover.runtime.options import EngineOptions

CONFIG = LlamaConfig(
    n_kv=256, n_seq=2, n_batch=64, n_threads=4, n_gpu_layers=0, kv_cache_type="f16",
    use_extra_bufts=True,
)  # fmt: skip


class Machine:
    """A backend whose calls take *step_s* by the number of its threads, on a clock that only they
    move; *n_free* of its cores compute for it."""

    def __init__(self, backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = backend
        self.step_s: dict[int, float] = {4: 0.004, 2: 0.002, 1: 0.003}
        self.n_free = 4.0
        self.n_calls = self.n_most_used = 0
        self.now = self.cpu_s = 0.0
        self._decode: Callable[[Sequence[Rows]], None] = backend.decode
        monkeypatch.setattr(backend, "decode", self._timed)
        monkeypatch.setattr(time, "process_time", lambda: self.cpu_s)

    def _timed(self, batch: Sequence[Rows]) -> None:
        self._decode(batch)
        n = self.backend.info.n_threads
        self.n_calls += 1
        self.n_most_used = max(self.n_most_used, n)
        self.now += self.step_s[n]
        self.cpu_s += self.step_s[n] * min(n, self.n_free)

    def idle(self) -> float:
        return self.n_free

    def free(self) -> float:
        return self.n_free

    def choose(self, cache_dir: Path, **options: int | bool) -> int:
        asked = EngineOptions(cache_dir=cache_dir, **options)  # type: ignore[arg-type]  # a mix
        choose_threads(self.backend, asked, lambda: self.now, self)
        return self.backend.info.n_threads


@pytest.fixture
def machine(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    backend = LlamaBackend(model_path, replace(CONFIG, adapt_threads=False))
    yield Machine(backend, monkeypatch)
    monkeypatch.undo()
    backend.close()


def test_the_fastest_number_of_threads_is_taken_and_remembered(
    machine: Machine, tmp_path: Path
) -> None:
    assert machine.choose(tmp_path) == 2
    n_calls = machine.n_calls
    machine.backend.limit_threads(4)
    assert machine.choose(tmp_path) == 2
    assert machine.n_calls == n_calls


def test_a_program_that_begins_meanwhile_ends_the_measurement(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free", lambda: 4.0)
    machine.n_free = 2.5
    machine.step_s = {4: 3.0, 2: 0.002, 1: 0.1}
    assert machine.choose(tmp_path) == 4
    assert machine.now < 10


def test_fewer_threads_must_be_clearly_faster(machine: Machine, tmp_path: Path) -> None:
    machine.step_s = {4: 0.00400, 2: 0.00380, 1: 0.00370}
    assert machine.choose(tmp_path) == 4


def test_what_other_programs_disturbed_is_measured_again(machine: Machine, tmp_path: Path) -> None:
    machine.n_free = 2.5
    assert machine.choose(tmp_path) == 4
    assert machine.n_most_used == 1  # a step with more threads than cores can take seconds
    machine.n_free = 4.0
    assert machine.choose(tmp_path) == 2


def test_slow_steps_are_not_measured_for_long(machine: Machine, tmp_path: Path) -> None:
    machine.step_s = dict.fromkeys((4, 2, 1), 1.0)
    assert machine.choose(tmp_path) == 4
    assert machine.n_calls == 1 + 1 + thread_choice._N_STEPS
    assert machine.n_most_used == 4


@pytest.mark.parametrize("options", [{"n_threads": 4}, {"adapt_threads": False}])
def test_what_the_user_has_decided_stays(
    machine: Machine, tmp_path: Path, options: dict[str, int | bool]
) -> None:
    assert machine.choose(tmp_path, **options) == 4
    assert not machine.n_calls


def test_large_models_keep_all_threads(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_choice, "_LARGEST_MODEL_BYTES", 1000)
    assert machine.choose(tmp_path) == 4
    assert not machine.n_calls


def test_on_a_busy_machine_the_first_request_begins_with_one_thread(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("threads are only governed on Linux")
    machine = Machine(LlamaBackend(model_path, CONFIG), monkeypatch)
    machine.n_free = 1.0
    assert measure(machine.backend, lambda: machine.now, machine) is None
    assert (machine.backend.info.n_threads, machine.backend._n_threads) == (4, 1)
    monkeypatch.undo()
    machine.backend.close()


def test_a_real_measurement_leaves_the_backend_as_it_was(model_path: Path) -> None:
    backend = LlamaBackend(model_path, replace(CONFIG, n_threads=2))
    token = np.array([5], dtype=np.int32)
    choice = measure(backend, time.perf_counter)
    assert choice is None or choice.n_threads in (1, 2)
    assert backend.info.n_threads == 2
    for n_threads in (1, 2):
        backend.limit_threads(n_threads)
        backend.decode([Rows(0, 0, token, True)])
        assert np.isfinite(backend.logits(0)).all()
        assert backend.keep(0, 0) == 0
    backend.close()
