"""The control groups of this process: what a container or a service may use. Versions 1 and 2."""

from __future__ import annotations

from collections.abc import Generator

from msgspec import Struct

from spillover.runtime.machine.system_files import SystemFiles

_MOUNT = "sys/fs/cgroup"
_NO_LIMIT = 1 << 60
"""Version 1 writes "no limit" as a number beyond this."""


class GroupMemory(Struct, frozen=True, kw_only=True):
    """A limit of memory, and how much of it the group may still take, in bytes."""

    limit_bytes: int
    available_bytes: int


def cpu_quota(files: SystemFiles) -> float | None:
    """Processors' worth of time that this process may use; None: no limit."""
    quotas = []
    for folder in _folders(files, "cpu"):
        v2 = (files.text(f"{folder}/cpu.max") or "").split()
        quota, period = v2 if len(v2) == 2 else ("", "")
        if not v2:
            quota = str(files.number(f"{folder}/cpu.cfs_quota_us"))
            period = str(files.number(f"{folder}/cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def group_memory(files: SystemFiles) -> GroupMemory | None:
    """The tightest limit of memory; None: there is none. Pages of files, such as those of a model,
    count as available: the system takes them back before it refuses memory.

    Version 2 also has a lower limit (memory.high), beyond which it slows a process down and takes
    pages back, among them weights that are read again for the next token: it counts, too."""
    found = []
    for folder in _folders(files, "memory"):
        limits = (files.number(f"{folder}/memory.{kind}") for kind in ("max", "high"))
        limit = min((limit for limit in limits if limit is not None), default=None)
        used = files.number(f"{folder}/memory.current")
        stat_prefix = ""
        if limit is None:
            limit = files.number(f"{folder}/memory.limit_in_bytes")
            used = files.number(f"{folder}/memory.usage_in_bytes")
            stat_prefix = "total_"
        if limit is None or used is None or limit >= _NO_LIMIT:
            continue
        stat = files.counts(f"{folder}/memory.stat")
        n_file = sum(stat.get(f"{stat_prefix}{kind}_file", 0) for kind in ("active", "inactive"))
        available = max(limit - used + n_file, 0)
        found.append(GroupMemory(limit_bytes=limit, available_bytes=available))
    if not found:
        return None
    return GroupMemory(
        limit_bytes=min(group.limit_bytes for group in found),
        available_bytes=min(group.available_bytes for group in found),
    )


def group_oom_kills(files: SystemFiles) -> int | None:
    """How many processes of this process's group, or of the next one above that counts them, the
    system has ended for want of memory. None where it does not tell, as with version 1, which
    counts without the groups below."""
    for folder in _folders(files, "memory"):
        n = files.counts(f"{folder}/memory.events").get("oom_kill")
        if n is not None:
            return n
    return None


def _folders(files: SystemFiles, controller: str) -> Generator[str]:
    """The folders of this process's group and of those above it, which limit it too. A container
    sees its own group as the topmost, but version 1 may name it by its path outside."""
    for line in (files.text("proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mount = _MOUNT
        elif controller in controllers.split(","):
            mount = f"{_MOUNT}/{controllers}"
            if not files.matching(mount):
                mount = f"{_MOUNT}/{controller}"
        else:
            continue
        names = [name for name in path.split("/") if name not in ("", "..")]
        for n in range(len(names), -1, -1):
            yield "/".join([mount, *names[:n]])
