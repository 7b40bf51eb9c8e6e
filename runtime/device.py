"""What this machine offers the process: cores, memory, accelerators."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from msgspec import Struct


class DeviceReport(Struct, frozen=True, kw_only=True):
    """The device as the runtime sees it."""

    os: str
    cpu: str
    n_cores_physical: int
    n_cores_usable: int
    """Cores that CPU affinity and the cgroup quota leave to this process."""
    n_threads_default: int
    ram_bytes: int
    ram_available_bytes: int
    gpus: tuple[str, ...] = ()


def describe_device() -> DeviceReport:
    """Ask the operating system; opens no model and starts no library."""
    memory = psutil.virtual_memory()
    return DeviceReport(
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_name(),
        n_cores_physical=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        n_cores_usable=n_cores_usable(),
        n_threads_default=default_threads(),
        ram_bytes=memory.total,
        ram_available_bytes=available_memory(),
        gpus=_gpu_names(),
    )


def default_threads() -> int:
    """Threads for decoding: the physical cores among those this process may use."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    usable = n_cores_usable()
    # With two hardware threads per core the second one only takes cache from the first.
    return max(1, math.ceil(usable * physical / logical))


def n_cores_usable() -> int:
    """Cores left by CPU affinity and by a cgroup's quota (containers, systemd)."""
    has_affinity = hasattr(os, "sched_getaffinity")
    n = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(n, math.ceil(quota)) if quota else n)


def available_memory() -> int:
    """Bytes that this process may still allocate, limited by the machine and its cgroup."""
    available = psutil.virtual_memory().available
    limit, used = _read_number("memory.max"), _read_number("memory.current")
    if limit is not None and used is not None:
        available = min(available, max(limit - used + _cgroup_file_bytes(), 0))
    return int(available)


def _cgroup_file_bytes() -> int:
    """What the cgroup's use contains of files, such as a model's pages: the system takes it back
    before it refuses memory."""
    lines = (_read_cgroup("memory.stat") or "").splitlines()
    pairs = (line.partition(" ") for line in lines)
    kinds = ("active_file", "inactive_file")
    return sum(int(n) for kind, _, n in pairs if kind in kinds and n.isdigit())


def total_memory() -> int:
    """Most bytes that this process could use, limited by the machine or its cgroup."""
    total = psutil.virtual_memory().total
    limit = _read_number("memory.max")
    return int(total if limit is None else min(total, limit))


def _cgroup_dir() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    unified = next((line[3:] for line in lines if line.startswith("0::")), None)
    return None if unified is None else Path("/sys/fs/cgroup") / unified.lstrip("/")


def _read_cgroup(name: str) -> str | None:
    folder = _cgroup_dir()
    if folder is None:
        return None
    try:
        return (folder / name).read_text().strip()
    except OSError:
        return None


def _read_number(name: str) -> int | None:
    text = _read_cgroup(name)
    return int(text) if text and text.isdigit() else None


def _cgroup_quota() -> float | None:
    """CPUs of cgroup v2's cpu.max, "quota period" or "max period"."""
    text = _read_cgroup("cpu.max")
    if not text:
        return None
    quota, _, period = text.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _gpu_names() -> tuple[str, ...]:
    """Names from the drivers' own files: NVIDIA's, and the board of a Jetson."""
    names = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = information.read_text(errors="replace").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    board = Path("/proc/device-tree/model")
    if board.exists():
        name = board.read_text(errors="replace").strip("\0\n ")
        if "Jetson" in name or "Tegra" in name:
            names.append(f"{name} (integrated GPU)")
    return tuple(names)


_SHORTEST_LOOK_S = 0.1
"""The system counts in hundredths of a second."""


class OurCores:
    """The activity of the cores that this process may use, since the last call."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._asked, self._idle_s, self._own_s = clock(), _idle_s(), cpu_clock()

    def idle(self) -> float:
        """How many were idle, or only ran work that yields to this process."""
        passed_s, idle_s, _ = self._pass()
        return idle_s / passed_s if passed_s > 0 else 0.0

    def free(self) -> float:
        """Like idle(), plus the cores that worked for this process; 0 when too little time has
        passed."""
        passed_s, idle_s, own_s = self._pass()
        return (idle_s + own_s) / passed_s if passed_s >= _SHORTEST_LOOK_S else 0.0

    def _pass(self) -> tuple[float, float, float]:
        """Seconds that passed, that cores were idle, and that they worked for us."""
        before = self._asked, self._idle_s, self._own_s
        self._asked, self._idle_s, self._own_s = self._clock(), _idle_s(), self._cpu_clock()
        return self._asked - before[0], self._idle_s - before[1], self._own_s - before[2]


def _idle_s() -> float:
    """Seconds since boot that the cores of this process have been idle, or ran niced work while
    this process is not niced itself."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    kinds = ("idle", "iowait", "nice") if _has_normal_priority() else ("idle", "iowait")
    return sum(
        float(getattr(core, kind, 0.0))
        for i, core in enumerate(psutil.cpu_times(percpu=True))
        if usable is None or i in usable
        for kind in kinds
    )


def _has_normal_priority() -> bool:
    return hasattr(os, "getpriority") and os.getpriority(os.PRIO_PROCESS, 0) <= 0
