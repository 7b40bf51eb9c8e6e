"""A worker that hangs is replaced, one that is slow is not."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
from msgspec import structs

from spillover.runtime.errors import EngineHung
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine.power import PowerReading
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.supervision import device_watch, heartbeat
from spillover.runtime.worker.supervision.dispatcher import Dispatcher
from spillover.runtime.worker.supervision.watchdog import (
    N_LOOKS,
    N_SLOW_LOOKS,
    Signs,
    Usage,
    Watchdog,
)
from tests.answers import ask, end_of, worker_of
from tests.measured import measured
from tests.waiting import wait_until

USAGE = Usage(1.0, 0, 0)


def n_looks_until_it_hangs(
    *,
    most: int = 10 * N_LOOKS,
    has_work: bool,
    answers: bool,
    steps: bool,
    cpu_s: float | None,
    prepares: bool = False,
    loads: bool = False,
    read_bytes: int = 0,
) -> int | None:
    """After how many looks a worker that always behaves so is taken for hung."""
    watchdog = Watchdog(interval_s=2.0)
    for look in range(most):
        signs = Signs(
            answers=answers,
            has_work=has_work,
            loop_has_work=has_work and not prepares,
            n_steps=look if steps else 0,
            usage=None if cpu_s is None else Usage(look * cpu_s, 0, look * read_bytes),
            loads=loads,
        )
        if watchdog.look(signs):
            return look
    return None


@pytest.mark.parametrize(
    ("answers", "has_work", "steps", "cpu_s"),
    [
        (True, False, False, 0.001),  # idle
        (True, True, True, 1.9),  # at work
        (True, True, True, None),
        (True, True, False, 1.9),  # in one long step
        (False, True, True, 1.9),  # reads a long text
        (False, True, False, 0.02),  # swaps
    ],
)
def test_a_worker_that_lives_is_not_taken_for_hung(
    answers: bool, has_work: bool, steps: bool, cpu_s: float | None
) -> None:
    assert (
        n_looks_until_it_hangs(answers=answers, has_work=has_work, steps=steps, cpu_s=cpu_s) is None
    )


@pytest.mark.parametrize(
    ("answers", "has_work"),
    [(False, False), (False, True), (True, True)],
    ids=["stopped", "stopped at work", "its loop waits for ever"],
)
def test_a_worker_without_a_sign_of_life_hangs(answers: bool, has_work: bool) -> None:
    n = n_looks_until_it_hangs(answers=answers, has_work=has_work, steps=False, cpu_s=0.001)
    assert n == N_LOOKS


def test_a_worker_whose_requests_are_still_prepared_is_not_taken_for_hung() -> None:
    """One that waited for the compilation of a response format in another process was ended."""
    n = n_looks_until_it_hangs(answers=True, has_work=True, steps=False, cpu_s=0.001, prepares=True)
    assert n is None


@pytest.mark.parametrize("cpu_s", [2.0, None])
def test_a_worker_that_computes_without_an_end_hangs_in_the_end(cpu_s: float | None) -> None:
    n = n_looks_until_it_hangs(
        most=2 * N_SLOW_LOOKS, answers=True, has_work=True, steps=False, cpu_s=cpu_s
    )
    assert n == N_SLOW_LOOKS


def n_looks_at_loading(cpu_s: float, read_bytes: int) -> int | None:
    return n_looks_until_it_hangs(
        most=2 * N_SLOW_LOOKS,
        has_work=False,
        answers=False,
        steps=False,
        cpu_s=cpu_s,
        loads=True,
        read_bytes=read_bytes,
    )


@pytest.mark.parametrize(("cpu_s", "read_bytes"), [(2.0, 0), (0.0, 4096)], ids=["cpu", "disk"])
def test_a_worker_may_load_for_long(cpu_s: float, read_bytes: int) -> None:
    assert n_looks_at_loading(cpu_s, read_bytes) is None


def test_a_worker_that_loads_without_progress_hangs() -> None:
    assert n_looks_at_loading(0.0, 0) == N_LOOKS


def test_a_moment_without_descriptors_does_not_end_the_watch() -> None:
    """The heartbeat's thread ended with an OSError, and nobody noticed a hung worker any more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert heartbeat.usage_of(os.getpid(), with_children=False) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert heartbeat.usage_of(os.getpid(), with_children=False) is not None


def test_one_sign_of_life_starts_the_count_anew() -> None:
    watchdog = Watchdog(interval_s=2.0)
    silent = Signs(answers=False, has_work=False, loop_has_work=False, n_steps=0, usage=USAGE)
    alive = Signs(answers=True, has_work=False, loop_has_work=False, n_steps=0, usage=USAGE)
    for _ in range(3):
        assert not any(watchdog.look(silent) for _ in range(N_LOOKS - 1))
        assert watchdog.is_suspicious
        assert not watchdog.look(alive)
        assert not watchdog.is_suspicious


def test_a_worker_that_is_stopped_in_mid_answer_is_replaced_and_the_answer_goes_on(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody used to notice: the answer stood still for ever."""
    options = EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=2.0)
    with LocalEngine(model_path, options) as engine:
        engine.wait_ready(60)
        events = []
        stopped = None
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                stopped = worker_of(engine)
                os.kill(stopped, signal.SIGSTOP)
        assert end_of(events).usage.completion_tokens == 60
        assert worker_of(engine) != stopped
    assert "hung (no sign of life for 2 s) and was ended" in caplog.text


def test_an_idle_worker_that_is_stopped_is_replaced(model_path: Path, tmp_path: Path) -> None:
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=2.0)
    ) as engine:
        engine.wait_ready(60)
        stopped = worker_of(engine)
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: engine.worker_pid not in (stopped, None))
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"


def test_a_worker_that_is_stopped_while_it_loads_is_replaced(
    model_path: Path, tmp_path: Path
) -> None:
    """Its requests used to wait for load_timeout_s."""
    options = EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=2.0)
    with LocalEngine(model_path, options) as engine:
        stopped = worker_of(engine)
        os.kill(stopped, signal.SIGSTOP)
        assert engine.health().state == "loading"
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"
        assert worker_of(engine) != stopped
        stopped = worker_of(engine)
        os.kill(stopped, signal.SIGKILL)
        wait_until(lambda: engine.worker_pid not in (stopped, None))
        os.kill(worker_of(engine), signal.SIGSTOP)  # loading again
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"


def test_questions_to_a_worker_that_may_hang_fail_at_once(model_path: Path, tmp_path: Path) -> None:
    """Each used to take half a minute."""
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=10.0)
    ) as engine:
        engine.wait_ready(60)
        stopped = worker_of(engine)
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: engine.health().state == "hung")
        try:
            with pytest.raises(EngineHung):
                engine.tokenize("Once", add_special=False, parse_special=False)
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_a_device_that_sleeps_does_not_make_its_worker_hang(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept_s, n_asked = 0.0, 0

    def asleep_s() -> float:
        nonlocal n_asked
        n_asked += 1
        return slept_s * n_asked

    monkeypatch.setattr(heartbeat, "asleep_s", asleep_s)
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=0.5)
    ) as engine:
        engine.wait_ready(60)
        slept_s, stopped = 60.0, worker_of(engine)
        os.kill(stopped, signal.SIGSTOP)
        n_before = n_asked
        wait_until(lambda: n_asked > n_before + 3 * N_LOOKS)
        assert engine.worker_pid == stopped
        slept_s = 0.0
        wait_until(lambda: engine.worker_pid not in (stopped, None))
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"


def test_a_worker_whose_gpu_is_gone_after_sleep_is_replaced_and_its_answer_goes_on(
    model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpus: tuple[str, ...] = ("A GPU",)
    slept_s = 0.0
    monkeypatch.setattr(heartbeat, "asleep_s", lambda: slept_s)
    monkeypatch.setattr(device_watch, "gpu_names", lambda: gpus)
    options = EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=0.5)
    with LocalEngine(model_path, options) as engine, caplog.at_level("INFO"):
        card = engine.wait_ready(60)
        first = worker_of(engine)
        slept_s = 3_600.0
        wait_until(lambda: "has slept for 3600 s" in caplog.text)
        assert worker_of(engine) == first, "its GPU is there"
        engine._supervisor._card = structs.replace(card, device="GPU")
        gpus = ()
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                slept_s = 7_200.0
                wait_until(lambda: engine.worker_pid not in (first, None))
        assert end_of(events).usage.completion_tokens == 60
    assert "lost its GPU while the device slept (A GPU)" in caplog.text


def test_power_is_saved_while_the_device_runs_on_its_battery(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a worker has long to show a sign of life, its power was looked at as seldom."""
    reading = PowerReading(on_battery=True)
    monkeypatch.setattr(device_watch, "power_now", lambda: reading)
    monkeypatch.setattr(Dispatcher, "has_work", lambda _: True)
    monkeypatch.setattr(heartbeat, "WORK_S", 0.05)
    options = EngineOptions(cache_dir=measured(tmp_path), n_threads=1, hang_timeout_s=3_600.0)
    with LocalEngine(model_path, options) as engine:
        engine.wait_ready(60)
        wait_until(lambda: engine.health().power_saving == "on battery")
        reading = PowerReading(on_battery=False)
        wait_until(lambda: engine.health().power_saving == "")
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"
