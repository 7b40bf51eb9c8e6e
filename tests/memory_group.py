"""A control group whose processes the system ends when they take more memory than it allows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path("/sys/fs/cgroup")
_GREEDY = """
import sys
held = []
for line in sys.stdin:
    held.append(b"x" * int(line))
    print("done", flush=True)
"""


class MemoryGroup:
    """Version 1 or 2. What a process takes once it is in the group counts."""

    def __init__(self, folder: Path, before: Path, limit_bytes: int) -> None:
        """*before*: the folder of the group in which this process is."""
        self._folder, self._before, self._limit_bytes = folder, before, limit_bytes
        limits = ("memory.limit_in_bytes", "memory.max")
        (limit,) = [folder / name for name in limits if (folder / name).exists()]
        limit.write_text(str(limit_bytes))
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            if (folder / swap).exists():
                (folder / swap).write_text(str(limit_bytes if "memsw" in swap else 0))

    @property
    def members(self) -> Path:
        """The file into which the id of a process is written that belongs to it from then on."""
        return self._folder / "cgroup.procs"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Processes that are started meanwhile are in the group, and so are theirs."""
        _join(self.members, os.getpid())
        try:
            yield
        finally:
            _join(self._before / "cgroup.procs", os.getpid())

    @property
    def n_killed(self) -> int:
        """How many of its processes the system has ended."""
        for name in ("memory.oom_control", "memory.events"):
            if (self._folder / name).exists():
                counts = dict(
                    line.split() for line in (self._folder / name).read_text().splitlines()
                )
                return int(counts["oom_kill"])
        raise AssertionError("one of them is there")

    @property
    def _taken_bytes(self) -> int:
        """Without the pages of files, which the system takes back."""
        stat = dict(
            line.split() for line in (self._folder / "memory.stat").read_text().splitlines()
        )
        return int(stat.get("total_rss") or stat["anon"])

    @contextmanager
    def greedy(self, left_bytes: int) -> Iterator[Greedy]:
        """A program in the group that leaves so much of its memory to others, until it ends."""
        with subprocess.Popen(
            [sys.executable, "-c", _GREEDY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            _join(self.members, process.pid)
            greedy = Greedy(self, process)
            assert greedy.take(self._limit_bytes - left_bytes - self._taken_bytes)
            yield greedy
            greedy.end()


class Greedy:
    """A program that takes memory. The system ends workers before it."""

    def __init__(self, group: MemoryGroup, process: subprocess.Popen[str]) -> None:
        self._group, self._process = group, process

    def take(self, n_bytes: int) -> bool:
        """False: the system has ended it."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{n_bytes}\n")
        process.stdin.flush()
        return bool(process.stdout.readline())

    def take_until_one_is_killed(self) -> None:
        """Take more until the system ends a process of the group, then give all of it back. The
        system may end this one next, before the memory of the first has become free."""
        before = self._group.n_killed
        while self._group.n_killed == before and self.take(8 << 20):
            pass
        self.end()

    def end(self) -> None:
        """Give all of it back."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def _join(members: Path, pid: int) -> None:
    members.write_text(str(pid))


def _own_group(parent: Path) -> Path:
    """The folder of this process's group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        is_ours = controllers == "memory" if parent.name == "memory" else number == "0"
        if is_ours and (parent / path.lstrip("/")).exists():
            return parent / path.lstrip("/")
    return parent


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A new one; skips the test where none can be made."""
    parent = _ROOT / "memory" if (_ROOT / "memory").exists() else _ROOT
    folder = parent / f"spillover-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not any((folder / n).exists() for n in ("memory.limit_in_bytes", "memory.max")):
            pytest.skip(f"{folder} does not limit memory: the controller is not enabled")
        yield MemoryGroup(folder, _own_group(parent), limit_bytes)
    finally:
        folder.rmdir()
