"""Memory in bytes: of the machine, and what its control groups leave to this process."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.machine.cgroup import group_memory
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


def count_oom_kills(files: SystemFiles) -> int | None:
    """How many processes the system has ended since its start because it had no memory left; None
    where it does not tell."""
    return files.counts("proc/vmstat").get("oom_kill")


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
