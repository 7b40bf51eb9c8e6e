"""A library that was compiled wrongly: the worker dies at its first decode, by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spillover.runtime.errors import ModelError, WorkerDied
from spillover.runtime.fit.tries import MOST_GUESSES
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine.llama_trial import llama_problem
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.exits import EXIT_SHORTAGE, describe_exit
from tests.answers import ask, end_of


@pytest.fixture
def broken_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that start now die of SIGSEGV when they decode with weight repacking on."""
    source = Path(__file__).with_name("crash_with_extra_bufts.c")
    shim = tmp_path / "crash.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True, timeout=60
    )
    monkeypatch.setenv("LD_PRELOAD", str(shim))


@pytest.mark.usefixtures("broken_library")
def test_the_worker_starts_once_more_without_weight_repacking(
    model_path: Path, tmp_path: Path
) -> None:
    with LocalEngine(model_path, EngineOptions(cache_dir=tmp_path, n_threads=1)) as engine:
        card = engine.wait_ready(60)
        assert not card.use_extra_bufts
        status = engine.status()
        assert "SIGSEGV" in status.detail
        assert "use_extra_bufts" in status.detail
        assert status.n_restarts == 0  # the start that failed was none of a running worker
        assert end_of(engine.stream(ask(max_tokens=5))).usage.completion_tokens == 5


@pytest.mark.usefixtures("broken_library")
def test_a_request_that_came_while_it_was_loading_is_answered(
    model_path: Path, tmp_path: Path
) -> None:
    with LocalEngine(model_path, EngineOptions(cache_dir=tmp_path, n_threads=1)) as engine:
        assert end_of(engine.stream(ask(max_tokens=5))).reason == "length"


@pytest.mark.usefixtures("broken_library")
@pytest.mark.parametrize(("name", "n_starts"), [("SIGSEGV", 2), ("SIGABRT", 2 + MOST_GUESSES)])
def test_a_worker_that_dies_again_is_started_a_few_times_at_most(
    name: str, n_starts: int, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What aborts may lack memory, but need not: with a smaller layout that was said of any file
    that was damaged."""
    llama_problem(tmp_path)  # known from now on: no process is started for it
    starts = tmp_path / "starts"
    monkeypatch.setenv("CRASH_ALWAYS", "1")
    monkeypatch.setenv("CRASH_SIGNAL", str(int(getattr(signal, name))))
    monkeypatch.setenv("CRASH_STARTS", str(starts))
    with (
        LocalEngine(model_path, EngineOptions(cache_dir=tmp_path, n_threads=1)) as engine,
        pytest.raises(ModelError, match=f"{name} while loading .*the file may be damaged"),
    ):
        engine.wait_ready(60)
    assert starts.read_bytes() == b"x" * n_starts


@pytest.mark.usefixtures("broken_library")
def test_a_worker_that_is_killed_while_it_loads_keeps_its_layout_of_the_weights(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRASH_SIGNAL", str(int(signal.SIGKILL)))
    options = EngineOptions(cache_dir=tmp_path, n_threads=1, max_restarts=1)
    with LocalEngine(model_path, options) as engine:
        with pytest.raises(WorkerDied, match="SIGKILL too often"):
            engine.wait_ready(60)
        assert "use_extra_bufts" not in engine.status().detail


@pytest.mark.skipif(os.name != "posix", reason="limits of memory are POSIX's")
def test_a_worker_without_memory_says_so_in_one_line() -> None:
    """A traceback of its own used to come first."""
    command = (
        "import resource; from spillover.runtime.worker.exits import exit_on_error;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "exit_on_error(lambda: 'x' * 10**10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_SHORTAGE
    assert done.stderr.startswith("worker: the system gives no more memory or threads")
    assert done.stderr.count("\n") == 1
    assert describe_exit(EXIT_SHORTAGE) == "got no more memory or threads from the system"
