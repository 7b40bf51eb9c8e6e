"""Memory in bytes: of the machine, and what its control groups leave to this process."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from spillover.runtime.machine.cgroup import group_memory, group_oom_kills
from spillover.runtime.machine.system_files import SystemFiles


class Memory(Struct, frozen=True, kw_only=True):
    total_bytes: int
    """The most that this process could use."""
    available_bytes: int
    """What it may still allocate."""


def read_memory(files: SystemFiles) -> Memory | None:
    """None where the system does not tell."""
    total, available = (_meminfo(files, name) for name in ("MemTotal", "MemAvailable"))
    return None if total is None or available is None else within_groups(files, total, available)


class OomKills:
    """Tells whether the system has lately ended a process because it had no memory left: one of
    this process's group or, where groups do not count them, any process."""

    def __init__(self, files: SystemFiles) -> None:
        self._files = files
        self._counts = deque([self._count()] * 2, maxlen=2)

    def look(self) -> None:
        """Forget what came before the look before this one. To be called again and again."""
        self._counts.append(self._count())

    @property
    def are_new(self) -> bool:
        """Whether there were any since the last look but one: one that has just come may have been
        counted at the last."""
        return self._counts[0] != self._count()

    def _count(self) -> int | None:
        n = group_oom_kills(self._files)
        return self._files.counts("proc/vmstat").get("oom_kill") if n is None else n


def within_groups(files: SystemFiles, total: int, available: int) -> Memory:
    """What the limits of this process's groups leave of the machine's memory."""
    group = group_memory(files)
    if group is None:
        return Memory(total_bytes=total, available_bytes=available)
    return Memory(
        total_bytes=min(total, group.limit_bytes),
        available_bytes=min(available, group.available_bytes),
    )


def _meminfo(files: SystemFiles, name: str) -> int | None:
    kibibytes = (files.field("proc/meminfo", name) or "").removesuffix("kB").strip()
    return int(kibibytes) * 1024 if kibibytes.isdigit() else None
