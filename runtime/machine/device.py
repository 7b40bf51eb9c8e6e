"""What this machine offers the process: cores, memory, accelerators, power."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import psutil
from msgspec import Meta, Struct, structs

from spillover.runtime.files.json_file import MeasurementStore, fingerprint
from spillover.runtime.machine.cores import ONLINE, Cores, read_cores
from spillover.runtime.machine.memory import Memory, read_memory
from spillover.runtime.machine.power import PowerReading, read_power, read_power_mode
from spillover.runtime.machine.system_files import SystemFiles

T = TypeVar("T")

_THIS_MACHINE = SystemFiles()


class DeviceReport(Struct, frozen=True, kw_only=True):
    """The device as the runtime sees it."""

    os: str
    board: str = ""
    """The name of a single-board computer."""
    cpu: str
    n_cores_physical: int
    n_cores_efficiency: int = 0
    """Among them the weaker ones of a hybrid processor."""
    n_cores_usable: int
    """Cores that CPU affinity and the cgroup quota leave to this process."""
    cpu_quota: float | None = None
    """The cgroup's, in processors' worth of time; None: no limit."""
    n_threads_default: int
    ram_bytes: int
    """Of the machine, or the limit of its cgroup."""
    ram_available_bytes: int
    gpus: tuple[str, ...] = ()
    gpu_shares_memory: bool = False
    """The GPU has no memory of its own."""
    bandwidth_bytes_per_s: float | None = None
    """Of memory that one thread reads; None: not measured."""
    power: PowerReading = PowerReading()
    power_mode: str = ""
    """What the owner chose between speed and power."""


def describe_device(files: SystemFiles = _THIS_MACHINE) -> DeviceReport:
    """Ask the operating system; opens no model, starts no library and measures nothing."""
    memory, cores = _memory(files), _cores(files)
    board = files.text("proc/device-tree/model") or ""
    return DeviceReport(
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        board=board,
        cpu=_cpu_name(files),
        n_cores_physical=cores.n_physical,
        n_cores_efficiency=cores.n_efficiency,
        n_cores_usable=cores.n_usable,
        cpu_quota=cores.quota,
        n_threads_default=cores.n_threads,
        ram_bytes=memory.total_bytes,
        ram_available_bytes=memory.available_bytes,
        gpus=gpu_names(files),
        gpu_shares_memory=_has_integrated_gpu(board) and not _nvidia_gpus(files),
        power=power_now(files),
        power_mode=read_power_mode(files),
    )


def gpu_names(files: SystemFiles = _THIS_MACHINE) -> tuple[str, ...]:
    """Names from the drivers' own files: NVIDIA's, and the board of a Jetson."""
    board = files.text("proc/device-tree/model") or ""
    integrated = [f"{board} (integrated GPU)"] if _has_integrated_gpu(board) else []
    return (*_nvidia_gpus(files), *integrated)


def _has_integrated_gpu(board: str) -> bool:
    return "Jetson" in board or "Tegra" in board


def default_threads(files: SystemFiles = _THIS_MACHINE) -> int:
    """Threads for decoding: the physical cores among those that this process may use, without the
    weaker ones of a hybrid processor."""
    return _cores(files).n_threads


def n_cores_usable(files: SystemFiles = _THIS_MACHINE) -> int:
    """Cores left by CPU affinity and by a cgroup's quota (containers, systemd)."""
    return _cores(files).n_usable


def available_memory(files: SystemFiles = _THIS_MACHINE) -> int:
    """Bytes that this process may still allocate, limited by the machine and its cgroup."""
    return _memory(files).available_bytes


def total_memory(files: SystemFiles = _THIS_MACHINE) -> int:
    """Most bytes that this process could use, limited by the machine or its cgroup."""
    return _memory(files).total_bytes


_LEFT_BYTES = 128 * 2**20
_LEFT_SHARE = 0.05


def memory_floor() -> int:
    """Bytes that are left to other programs: 128 MiB, or 5 % of all memory where that is less."""
    return int(min(_LEFT_BYTES, _LEFT_SHARE * total_memory()))


def _cores(files: SystemFiles) -> Cores:
    cores = read_cores(files)
    if cores is not None:
        return cores
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    # With two hardware threads per core the second one only takes cache from the first.
    n_threads = max(1, math.ceil(usable * physical / logical))
    return Cores(n_physical=physical, n_usable=usable, n_threads=n_threads)


def _memory(files: SystemFiles) -> Memory:
    memory = read_memory(files)
    if memory is not None:
        return memory
    found = psutil.virtual_memory()
    return Memory(total_bytes=int(found.total), available_bytes=int(found.available))


def _cpu_name(files: SystemFiles) -> str:
    for name in ("model name", "Model"):
        if found := files.field("proc/cpuinfo", name):
            return found
    return platform.processor() or platform.machine()


def _nvidia_gpus(files: SystemFiles) -> list[str]:
    paths = files.matching("proc/driver/nvidia/gpus/*/information")
    return [name for path in paths if (name := files.field(path, "Model"))]


class Bandwidth(Struct, frozen=True, kw_only=True):
    """As it was measured on this device."""

    bytes_per_s: Annotated[float, Meta(gt=0, le=1e14)]


def memory_bandwidth(
    report: DeviceReport, measure: Callable[[], float], cache_dir: Path | None = None
) -> DeviceReport:
    """*report* with the bandwidth of memory, which *measure* measures once per device."""
    key = fingerprint("bandwidth", report.board, report.cpu, report.ram_bytes)
    store = MeasurementStore(cache_dir, key, Bandwidth)
    known = store.read()
    if known is None:
        known = Bandwidth(bytes_per_s=measure())
        store.write(known)
    return structs.replace(report, bandwidth_bytes_per_s=known.bytes_per_s)


# --- power ----------------------------------------------------------------------------------


def power_now(files: SystemFiles = _THIS_MACHINE) -> PowerReading:
    """Battery, temperature and clock rate now, by the system's files or else by psutil."""
    reading = read_power(files)
    if platform.system() == "Linux" or files is not _THIS_MACHINE:
        return reading
    battery, frequency = _ask("sensors_battery"), _ask("cpu_freq")
    plugged, percent = getattr(battery, "power_plugged", None), getattr(battery, "percent", None)
    current, highest = (_number(getattr(frequency, name, None)) for name in ("current", "max"))
    share = _number(percent)
    return PowerReading(
        on_battery=None if plugged is None else not plugged,
        battery_share=None if share is None else min(max(share / 100.0, 0.0), 1.0),
        frequency_share=current / highest if current and highest else None,
    )


def known(read: Callable[[], T]) -> T | None:
    """What *read* returns; None if the system has no such sensor, which shows as a missing
    function or an error, or no descriptor to read it with."""
    try:
        return read()
    except (AttributeError, OSError, RuntimeError, NotImplementedError, ValueError):
        return None


def _ask(name: str) -> Any:
    """psutil's value, which may also be empty; None as in known()."""
    return known(lambda: getattr(psutil, name)())


def _number(value: object) -> float | None:
    is_known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_known else None  # type: ignore[arg-type]  # checked above


SLACK_CORES = 0.35
"""A measurement counts although other programs took this share of a core."""

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


class FreeCores(Protocol):
    """What a measurement asks OurCores."""

    def free(self) -> float:
        """How many cores were idle or worked for us since the last answer; 0 when too little time
        has passed to say."""
        ...


def our_cores() -> FreeCores | None:
    """None where the system does not show how busy the cores are."""
    try:
        return OurCores()
    except OSError:
        return None


def were_taken(cores: FreeCores | None, n_threads: int) -> bool:
    """Whether other programs took cores that *n_threads* needed since the last look at *cores*."""
    free = cores.free() if cores is not None else 0.0
    return 0 < free < n_threads - SLACK_CORES


def _idle_s() -> float:
    """Seconds since boot that the cores of this process have been idle, or ran niced work while
    this process is not niced itself."""
    cores = psutil.cpu_times(percpu=True)
    # Those that are switched off are not among them, but have numbers.
    numbers = sorted(_THIS_MACHINE.cpus(ONLINE) or ())
    if len(numbers) != len(cores):
        numbers = list(range(len(cores)))
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(numbers)
    are_known = usable <= set(numbers)  # a container that shows only its own gives them others
    kinds = ("idle", "iowait", "nice") if _has_normal_priority() else ("idle", "iowait")
    return sum(
        float(getattr(core, kind, 0.0))
        for number, core in zip(numbers, cores, strict=True)
        if number in usable or not are_known
        for kind in kinds
    )


def _has_normal_priority() -> bool:
    return hasattr(os, "getpriority") and os.getpriority(os.PRIO_PROCESS, 0) <= 0
