"""Names the process that holds a reservation, and tells whether it has ended. Where the system does
not tell, nothing has."""

from __future__ import annotations

import functools
import os
from pathlib import Path


def this_process() -> str:
    """The name of this process, among all that may use the same file; "" where there is none."""
    pid = os.getpid()
    return f"{place} {pid} {start}" if (place := _place()) and (start := _start(pid)) else ""


def has_ended(holder: str) -> bool:
    """Whether the process named *holder* ran on this machine, since it was started, and is gone."""
    place, _, process = holder.partition(" ")
    pid, _, start = process.partition(" ")
    if not place or place != _place() or not pid.isdecimal():
        return False
    return _start(int(pid)) != start


@functools.cache
def _place() -> str:
    """Within which a process number means one process; "" if that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _start(pid: int) -> str:
    """When a process started, in ticks since the machine did; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
