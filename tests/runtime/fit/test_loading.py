"""Real workers whose address space is limited: they load what fits, and say why."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import psutil
import pytest

from spillover.models.catalogue import find
from spillover.runtime.errors import ModelError
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.exits import EXIT_SHORTAGE
from tests.answers import all_at_once, ask, end_of, worker_of
from tests.gguf_edit import with_values
from tests.memory_group import memory_group

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")

KIB = 1024


class LimitedWorkers:
    """Workers that start from now on have *limit_bytes* of address space; None: no limit."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit_bytes: int | None = None
        self.run, self.then = "exec", ""
        self.model = with_values(
            Path(find("storyteller").path), folder / "long.gguf", {"llama.context_length": 65_536}
        )
        self.cache_dir = folder / "cache"
        self._starts = folder / "starts"
        self._python = sys.executable
        self._script = folder / "python"
        monkeypatch.setattr(sys, "executable", str(self._script))
        # The C library reserves 64 MiB for each thread, if it can: more than is compared here.
        monkeypatch.setenv("MALLOC_ARENA_MAX", "1")

    def options(self, **changed: object) -> EngineOptions:
        return EngineOptions(cache_dir=self.cache_dir, n_threads=1, **changed)  # type: ignore[arg-type]  # by name

    def engine(self, **options: object) -> LocalEngine:
        """The bundled model with room for many more tokens."""
        limit = ":" if self.limit_bytes is None else f"ulimit -v {self.limit_bytes // KIB}"
        self._script.write_text(
            f"""#!/bin/sh
            case "$*" in *worker.worker*) echo start >>"{self._starts}"; {limit} ;; esac
            {self.run} "{self._python}" "$@" {self.then}
            """
        )
        self._script.chmod(0o700)
        self._starts.write_text("")
        return LocalEngine(self.model, self.options(**options), name="long")

    @property
    def n_starts(self) -> int:
        """Of workers of the last engine."""
        return len(self._starts.read_text().split())


def peak_bytes(engine: LocalEngine) -> int:
    """The most address space that the worker has had."""
    lines = Path(f"/proc/{worker_of(engine)}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmPeak")]
    return int(line.split()[1]) * KIB


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """What the smallest layout takes, and the usual one."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        workers = LimitedWorkers(tmp_path_factory.mktemp("peaks"), patch)
        for options in ({"n_ctx": 2048, "n_parallel": 1}, {}):
            with workers.engine(**options) as engine:
                engine.wait_ready(60)
                found.append(peak_bytes(engine))
    smallest, largest = found
    assert largest - smallest > 200 << 20
    return smallest, largest


@pytest.fixture
def limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peaks: tuple[int, int]
) -> LimitedWorkers:
    """With less than the usual layout takes, and enough for the smallest one."""
    workers = LimitedWorkers(tmp_path, monkeypatch)
    workers.limit_bytes = sum(peaks) // 2
    return workers


def test_a_layout_that_does_not_fit_gets_smaller_until_it_loads_and_is_remembered(
    limited: LimitedWorkers, caplog: pytest.LogCaptureFixture
) -> None:
    with limited.engine() as engine:
        card = engine.wait_ready(60)
        assert end_of(engine.stream(ask(max_tokens=5))).usage.completion_tokens == 5
        assert engine.status().n_restarts == 0
        # Nothing else is ended by the system in its place.
        score = Path(f"/proc/{worker_of(engine)}/oom_score_adj").read_text()
        assert score.strip() == "1000"
    assert card.n_kv < 65_536
    assert limited.n_starts > 1
    assert "did not fit into memory" in card.layout_reason
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line == f"long is loaded with {card.layout}; {card.layout_reason}"

    with limited.engine() as engine:  # the next start begins with what was found
        again = engine.wait_ready(60)
    assert limited.n_starts == 1
    assert again.layout == card.layout
    assert again.layout_reason.startswith("found by loading before, when 4 answers at a time")


def test_what_the_owner_has_set_is_not_changed_but_what_would_fit_is_said(
    limited: LimitedWorkers,
) -> None:
    wanted = {"n_kv": 65_536, "n_ctx": 16_384, "kv_cache_type": "f16"}
    with limited.engine(**wanted) as engine, pytest.raises(ModelError) as refusal:
        engine.wait_ready(60)
    assert "memory does not hold" in str(refusal.value)
    assert "n_kv = 65536" in str(refusal.value)
    assert "would hold" in str(refusal.value)
    with limited.engine(n_ctx=8192) as engine:  # the rest is free, and gives way
        card = engine.wait_ready(60)
    assert card.n_ctx == 8192


def test_a_limit_that_nothing_fits_is_a_clear_error(
    limited: LimitedWorkers, peaks: tuple[int, int]
) -> None:
    limited.limit_bytes = peaks[0] - (48 << 20)
    with limited.engine() as engine, pytest.raises(ModelError, match="does not even hold 1 answer"):
        engine.wait_ready(120)


def test_a_layout_for_which_the_system_ends_the_worker_gets_smaller_until_it_loads(
    limited: LimitedWorkers,
) -> None:
    """As in a container, where nobody is refused memory: who takes too much is killed."""
    limited.limit_bytes = None
    with memory_group(192 << 20) as group:
        limited.run = f'echo $$ >"{group.members}"; exec'
        with limited.engine(n_kv=65_536, kv_cache_type="f16") as engine:
            with pytest.raises(ModelError, match="memory does not hold n_kv = 65536"):
                engine.wait_ready(60)
            assert group.n_killed >= 1
        with limited.engine() as engine:
            assert engine.wait_ready(60).n_kv < 65_536
            assert end_of(engine.stream(ask(max_tokens=5))).usage.completion_tokens == 5


def test_streams_go_on_when_memory_runs_out_later(limited: LimitedWorkers) -> None:
    """In whatever way the worker ends, or does not."""
    limited.limit_bytes = None
    with limited.engine() as engine:
        engine.wait_ready(60)
        pid = worker_of(engine)
        held = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.prlimit(pid, resource.RLIMIT_AS, (held + (1 << 20), held + (1 << 20)))
        requests = [ask(f"Number {n}. " * 300, max_tokens=30, ignore_eos=True) for n in range(4)]
        for events in all_at_once(engine, requests):
            assert end_of(events).usage.completion_tokens == 30
        assert end_of(engine.stream(ask(max_tokens=5))).usage.completion_tokens == 5
        assert engine.status().state == "ready"
        assert engine.card.n_ctx == 16_384


def test_a_worker_that_has_run_short_of_memory_comes_back_in_a_smaller_layout(
    limited: LimitedWorkers,
) -> None:
    limited.limit_bytes = None
    # Who is killed has ended as one that got no more memory.
    limited.run, limited.then = "", f"; [ $? = 137 ] && exit {EXIT_SHORTAGE}"
    with limited.engine(n_parallel=4) as engine:
        engine.wait_ready(60)
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) in (10, 20):  # it is not blamed for want of memory
                (child,) = psutil.Process(worker_of(engine)).children()
                child.kill()
        assert end_of(events).usage.completion_tokens == 60
        assert (engine.card.n_ctx, engine.card.n_parallel) == (16_384, 4)
        assert engine.card.n_kv < 65_536
    with limited.engine(n_parallel=4) as engine:  # that was for the moment
        assert engine.wait_ready(60).n_kv == 65_536
