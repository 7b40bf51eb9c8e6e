"""Those who wait when a worker dies, and a device without room for the next one."""

from __future__ import annotations

import errno
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineError, InvalidRequest, WorkerDied
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import JsonSchema
from spillover.runtime.worker.supervision import supervisor, worker_process
from spillover.runtime.worker.supervision.worker_process import WorkerProcess
from tests.answers import ask, end_of, worker_of
from tests.measured import measured
from tests.waiting import wait_until


def stoppable(cache_dir: Path) -> EngineOptions:
    """Of an engine whose worker is not replaced while it is stopped."""
    return EngineOptions(cache_dir=measured(cache_dir), n_threads=1, hang_timeout_s=600)


def no_memory(*_: object) -> WorkerProcess:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_a_death_ends_all_questions_and_the_next_worker_starts(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of those who were woken could leave while the others were: then no worker came."""
    asked: dict[int, Any] = {}

    class Watched(queue.SimpleQueue[Any]):
        """Wakes whoever waits, and goes on when he has left."""

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            super().put(item)
            if item is None:
                wait_until(lambda: all(answers is not self for answers in list(asked.values())))

    monkeypatch.setattr(queue, "SimpleQueue", Watched)
    errors: list[EngineError] = []
    with LocalEngine(model_path, stoppable(tmp_path)) as engine:
        engine.wait_ready(60)
        asked = engine._dispatcher._questions
        pid = worker_of(engine)

        def question() -> None:
            try:
                engine.tokenize("Once", add_special=False, parse_special=False)
            except EngineError as error:
                errors.append(error)

        os.kill(pid, signal.SIGSTOP)
        # A thread that comes before the one that takes the signal may still answer.
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        threads = [threading.Thread(target=question) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(asked) == 3)
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        assert len(errors) == 3
        assert all("ended before it answered" in str(error) for error in errors)
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"
        assert engine.status().n_restarts == 1


def test_a_worker_that_cannot_be_started_now_is_started_later(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine used to stay between two workers for ever, and its streams with it."""
    starts: list[Callable[..., WorkerProcess]] = [WorkerProcess, no_memory, WorkerProcess]
    monkeypatch.setattr(supervisor, "WorkerProcess", lambda *order: starts.pop(0)(*order))
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1)
    ) as engine:
        engine.wait_ready(60)
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                os.kill(worker_of(engine), signal.SIGKILL)
        assert end_of(events).usage.completion_tokens == 60
        assert engine.status().n_restarts == 2
    assert starts == []


def test_the_next_worker_is_started_though_no_thread_is_left_to_wait_for_it(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stayed between two workers for ever; and at the first start its worker stayed,
    although nobody had the engine."""
    starts: list[Callable[..., WorkerProcess]] = [WorkerProcess, no_memory, WorkerProcess]
    monkeypatch.setattr(supervisor, "WorkerProcess", lambda *order: starts.pop(0)(*order))
    start = threading.Thread.start

    def start_those_of_workers(thread: threading.Thread) -> None:
        if not thread.name.startswith(("worker-", "heartbeat")):
            raise RuntimeError("can't start new thread")
        start(thread)

    with LocalEngine(model_path, EngineOptions(cache_dir=tmp_path, n_threads=1)) as engine:
        engine.wait_ready(60)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start_those_of_workers)
            os.kill(worker_of(engine), signal.SIGKILL)
            wait_until(lambda: engine.status().state == "ready" and not starts)
            with (
                LocalEngine(model_path, EngineOptions(cache_dir=tmp_path)) as other,
                pytest.raises(WorkerDied, match="can't start new thread"),
            ):
                other.wait_ready(60)
            assert other.worker_pid is None


def test_closing_waits_for_no_worker_that_loads_and_for_each_that_ends(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was loading was given seconds to hear of its end; and who closed an engine
    behind another one went on while its worker still had its memory."""
    monkeypatch.setattr(worker_process, "_QUIT_TIMEOUT_S", 600)
    with LocalEngine(model_path, stoppable(tmp_path)) as engine:
        os.kill(worker_of(engine), signal.SIGSTOP)
        closing = threading.Thread(target=engine.close)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
    is_there: list[bool] = []
    with LocalEngine(model_path, stoppable(tmp_path)) as engine:
        engine.wait_ready(60)
        pid = worker_of(engine)
        os.kill(pid, signal.SIGSTOP)

        def close() -> None:
            engine.close()
            is_there.append(psutil.pid_exists(pid))

        threads = [threading.Thread(target=close) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: engine.health().state == "closed")
        threads[1].join(0.1)  # as long as it took before
        os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join(60)
    assert is_there == [False, False]


def test_each_death_of_a_worker_is_a_line_in_the_log(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server whose workers died one after the other used to say nothing."""
    options = EngineOptions(cache_dir=measured(tmp_path), max_restarts=1, n_threads=1)
    with LocalEngine(model_path, options, name="m") as engine:
        engine.wait_ready(60)
        os.kill(worker_of(engine), signal.SIGKILL)
        wait_until(lambda: len(caplog.messages) == 2)
        os.kill(worker_of(engine), signal.SIGKILL)
        wait_until(lambda: len(caplog.messages) == 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]
    died, ready, given_up = caplog.messages
    assert died == (
        "the worker of m was ended by SIGKILL: a new one starts in 0 s and goes on with 0 requests"
    )
    assert ready.startswith("a new worker of m is ready: process ")
    assert given_up.startswith("m serves no requests: the worker was ended by SIGKILL")


def test_a_device_without_room_for_a_worker_says_so(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WorkerProcess", no_memory)
    with LocalEngine(model_path) as engine, pytest.raises(WorkerDied, match="Cannot allocate"):
        engine.wait_ready(60)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("messages", {"text": "half a character: \ud83d"}),
        ("template_kwargs", {"template_kwargs": {"x": 2**64}}),
        ("response_format", {"response_format": JsonSchema(schema={"minimum": -(2**63) - 1})}),
        ("stop", {"stop": ("\udcff",)}),
    ],
)
def test_requests_that_cannot_be_sent_to_a_worker_are_refused_and_forgotten(
    model_path: Path, tmp_path: Path, param: str, fields: dict[str, Any]
) -> None:
    """Such a request used to stay, and no later worker could be given anything."""
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1)
    ) as engine:
        engine.wait_ready(60)
        with pytest.raises(InvalidRequest) as refusal:
            next(engine.stream(ask(**fields)))
        assert refusal.value.param == param
        assert not engine._dispatcher._tickets
        os.kill(worker_of(engine), signal.SIGKILL)
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"


def test_a_worker_that_does_not_listen_delays_no_caller(model_path: Path, tmp_path: Path) -> None:
    """Whoever wrote to its full pipe held the lock that everybody needs."""
    with (
        LocalEngine(model_path, stoppable(tmp_path)) as engine,
        ThreadPoolExecutor(3) as pool,
    ):
        engine.wait_ready(60)
        pid, tickets = worker_of(engine), engine._dispatcher._tickets
        os.kill(pid, signal.SIGSTOP)
        cancellation = Cancellation()
        # Each more than a pipe takes.
        long = ask("Once upon a time. " * 20_000)
        answers = [pool.submit(lambda: list(engine.stream(long, cancellation))) for _ in range(3)]
        try:
            wait_until(lambda: len(tickets) == 3)
            cancellation.cancel()
            assert all(end_of(answer.result(60)).reason == "cancelled" for answer in answers)
        finally:
            os.kill(pid, signal.SIGKILL)
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"


def test_a_cancelled_answer_ends_though_its_worker_is_stopped(
    model_path: Path, tmp_path: Path
) -> None:
    """It used to wait a minute for the worker's last word, and then the worker was killed."""
    with LocalEngine(model_path, stoppable(tmp_path)) as engine:
        engine.wait_ready(60)
        pid, dispatcher = worker_of(engine), engine._dispatcher
        cancellation = Cancellation()
        events = []
        for event in engine.stream(ask(max_tokens=600, ignore_eos=True), cancellation):
            events.append(event)
            if len(events) == 10:
                os.kill(pid, signal.SIGSTOP)
                cancellation.cancel()
        finished = end_of(events)
        assert finished.reason == "cancelled"
        assert finished.usage.completion_tokens >= 7
        assert dispatcher.has_work()
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not dispatcher.has_work())
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"
        assert worker_of(engine) == pid


def test_a_worker_that_says_nothing_counts_as_hung(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to count as ready, after half a minute."""
    with LocalEngine(model_path, stoppable(tmp_path)) as engine:
        engine.wait_ready(60)
        assert engine.status().state == "ready"
        os.kill(worker_of(engine), signal.SIGSTOP)
        monkeypatch.setattr(supervisor, "STATUS_TIMEOUT_S", 0.01)
        wait_until(lambda: engine.status().state == "hung")
        os.kill(worker_of(engine), signal.SIGCONT)
        wait_until(lambda: engine.status().state == "ready")
