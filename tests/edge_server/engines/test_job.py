"""The process that converts a GGUF file: how it ends, and what it leaves behind."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from spillover.edge_server.commands.engines import job_process
from spillover.edge_server.commands.engines.job import LOWEST
from spillover.edge_server.commands.engines.job_process import (
    JobProcess,
    LoadConversion,
    comparing_in_background,
)
from spillover.edge_server.commands.engines.order import Order, encode
from spillover.models.file_lock import try_lock
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.conversions.record import MAX_DEATHS
from spillover.runtime.conversions.store import ConversionStore, is_intact
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.system_files import SystemFiles
from tests.edge_server.engines.conversions import is_checked, is_converting, is_free, left_by
from tests.waiting import wait_until


def test_work_in_the_background_yields_to_everything(order: Order) -> None:
    """It used to take memory from models that were loaded, too: the system ended one of those."""
    job = JobProcess(msgspec.structs.replace(order, in_background=True))
    wait_until(lambda: psutil.Process(job.pid).nice() == LOWEST)
    if sys.platform == "linux":
        assert Path(f"/proc/{job.pid}/oom_score_adj").read_text().strip() == "1000"
    job.end()


def test_a_job_that_is_ended_leaves_nothing_half_done(order: Order) -> None:
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    job.end()
    folders, n_died = left_by(order)
    assert n_died == 0
    store = ConversionStore(order.options.cache_dir)
    assert all(is_intact(store.folder / name) for name in folders)
    assert is_free(store)


def test_a_job_that_is_killed_is_done_again_from_the_start(order: Order) -> None:
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    os.kill(job.pid, signal.SIGKILL)
    assert "was ended by SIGKILL" in job.result().error
    job.end()
    assert left_by(order)[1] == 1
    again = JobProcess(order)
    try:
        again.result()
    finally:
        again.end()
    folders, n_died = left_by(order)
    assert n_died == 0
    assert len(folders) == 1
    assert is_checked(order.path, order.options)


@pytest.fixture
def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """As if the system ended one more process for want of memory."""
    counts = tmp_path / "system/proc/vmstat"
    counts.parent.mkdir(parents=True)
    n_kills = itertools.count()

    def run_out_of_memory() -> None:
        counts.write_text(f"oom_kill {next(n_kills)}\n")

    run_out_of_memory()
    monkeypatch.setattr(job_process, "SystemFiles", lambda: SystemFiles(tmp_path / "system"))
    return run_out_of_memory


def test_a_job_that_the_system_ends_for_want_of_memory_is_not_the_files_fault(
    order: Order, run_out_of_memory: Callable[[], None]
) -> None:
    """After three of them the file was given up, however much memory there was later."""
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    run_out_of_memory()
    os.kill(job.pid, signal.SIGKILL)
    assert "memory ran out" in job.result().error
    job.end()
    assert left_by(order)[1] == 0


def test_a_conversion_for_which_memory_runs_out_is_tried_only_so_often(
    order: Order, run_out_of_memory: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start_and_kill(module: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.kill()
        run_out_of_memory()
        started.append(module)
        return process

    monkeypatch.setattr(job_process, "start_process", start_and_kill)
    conversion = LoadConversion(order.path, msgspec.structs.replace(order.options, engine="onnx"))
    for _ in range(MAX_DEATHS + 1):
        assert conversion.is_needed()
        with pytest.raises(ModelError, match="memory ran out"):
            conversion.make(Cancellation())
    assert len(started) == MAX_DEATHS


def test_a_job_that_takes_too_long_to_end_is_not_the_files_fault(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_process, "_END_TIMEOUT_S", 0.0)
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    job.end()
    assert left_by(order)[1] == 0


def cancelled_while_converting(order: Order) -> list[str]:
    """The errors of a conversion that somebody waits for and gives up."""
    cancellation = Cancellation()
    errors: list[str] = []

    def convert() -> None:
        try:
            options = msgspec.structs.replace(order.options, engine="onnx")
            LoadConversion(order.path, options).make(cancellation)
        except ModelError as error:
            errors.append(str(error))

    thread = threading.Thread(target=convert)
    thread.start()
    wait_until(lambda: is_converting(order))
    cancellation.cancel()
    thread.join(60)
    return errors


def test_a_conversion_that_somebody_waits_for_can_be_cancelled(order: Order) -> None:
    errors = cancelled_while_converting(order)
    assert len(errors) == 1
    assert "was cancelled" in errors[0]
    assert is_free(ConversionStore(order.options.cache_dir))


def waiting_behind_another(order: Order) -> JobProcess:
    """A job that waits for the lock, which somebody holds."""
    job, lock = JobProcess(order), str(ConversionStore(order.options.cache_dir).lock)
    process = psutil.Process(job.pid)
    # It has tried without waiting, too, and has the file open for both.
    wait_until(lambda: [file.path for file in process.open_files()].count(lock) == 2)
    return job


def test_a_conversion_that_somebody_waits_for_waits_for_another_one(order: Order) -> None:
    """Of two servers that started with one file, the second one ended."""
    with try_lock(ConversionStore(order.options.cache_dir).lock):
        job = waiting_behind_another(order)
    try:
        assert job.result().error == ""
    finally:
        job.end()
    assert is_checked(order.path, order.options)


def test_a_conversion_that_waits_for_another_one_can_be_cancelled(order: Order) -> None:
    with try_lock(ConversionStore(order.options.cache_dir).lock):
        job = waiting_behind_another(order)
        job.end()
        assert not psutil.pid_exists(job.pid)


def give_no_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has none left for *name*."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_conversion_is_cancelled_where_no_thread_is_left(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cancelled it met the error, and the conversion went on."""
    give_no_thread("end of the conversion", monkeypatch)
    errors = cancelled_while_converting(order)
    assert len(errors) == 1
    assert "was cancelled" in errors[0]
    assert is_free(ConversionStore(order.options.cache_dir))


def test_a_server_starts_where_no_thread_is_left_for_the_comparison(
    order: Order, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended, and the job went on without it."""
    give_no_thread("engines", monkeypatch)
    with comparing_in_background(order.path, order.options):
        assert is_free(ConversionStore(order.options.cache_dir))
    assert "no more memory or threads" in caplog.text


def test_without_a_process_for_a_conversion_the_load_says_why(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: str) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(job_process, "start_process", refuse)
    options = msgspec.structs.replace(order.options, engine="onnx")
    with pytest.raises(ModelError, match="Resource temporarily unavailable"):
        LoadConversion(order.path, options).make(Cancellation())


def test_the_job_ends_with_its_parent(order: Order) -> None:
    """Its parent is killed, and cannot end it."""
    code = (
        "import sys; from spillover.edge_server.commands.engines.order import decode_order;"
        "from spillover.edge_server.commands.engines.job_process import JobProcess;"
        "job = JobProcess(decode_order(sys.argv[1].encode()));"
        "print(job.pid, flush=True); job.result()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, encode(order).decode()], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent:
        job = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: is_converting(order))
        parent.kill()
    gone, alive = psutil.wait_procs([job], timeout=60)
    assert (len(gone), alive) == (1, [])
    assert left_by(order)[1] == 0
