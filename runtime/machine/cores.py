"""The processor's cores, and which of them this process may use."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.machine.cgroup import cpu_quota
from spillover.runtime.machine.system_files import SystemFiles, cpus_of

_CPU = "sys/devices/system/cpu"
ONLINE = f"{_CPU}/online"

PERFORMANCE_SHARE = 0.6
"""A core with less than this share of the strongest core's capacity holds up the others: threads
wait for each other after every operation."""


class Cores(Struct, frozen=True, kw_only=True):
    """How many there are, and are left to this process by affinity and the quota of its group."""

    n_physical: int
    n_efficiency: int = 0
    """Among them the weaker ones of a hybrid processor."""
    n_usable: int
    """Threads that can run at the same time."""
    quota: float | None = None
    """Processors' worth of time; None: no limit."""
    n_threads: int
    """To compute with: usable physical cores, without the weaker ones where there are others."""


def read_cores(files: SystemFiles) -> Cores | None:
    """None where the system does not tell."""
    online = files.cpus(ONLINE)
    if not online:
        return None
    allowed = cpus_of(files.field("proc/self/status", "Cpus_allowed_list")) or online
    allowed = allowed & online or online
    weaker = _weaker(files, online)
    core_of = {cpu: _siblings(files, cpu) & online or frozenset((cpu,)) for cpu in online}
    quota = cpu_quota(files)
    most = len(allowed) if quota is None else min(len(allowed), max(int(quota), 1))
    strong = allowed - weaker or allowed
    return Cores(
        n_physical=len(set(core_of.values())),
        n_efficiency=len({core_of[cpu] for cpu in weaker}),
        n_usable=most,
        quota=quota,
        n_threads=min(len({core_of[cpu] for cpu in strong}), most),
    )


def _siblings(files: SystemFiles, cpu: int) -> frozenset[int]:
    """The hardware threads of a processor's core. The second one only takes cache from the
    first."""
    return files.cpus(f"{_CPU}/cpu{cpu}/topology/thread_siblings_list") or frozenset((cpu,))


def _weaker(files: SystemFiles, online: frozenset[int]) -> frozenset[int]:
    """The processors of efficiency cores: by what Arm's kernels say, or Intel's."""
    capacities = {cpu: files.number(f"{_CPU}/cpu{cpu}/cpu_capacity") for cpu in online}
    known = {cpu: capacity for cpu, capacity in capacities.items() if capacity}
    if len(known) == len(online):
        least = PERFORMANCE_SHARE * max(known.values())
        return frozenset(cpu for cpu, capacity in known.items() if capacity < least)
    strong, weak = files.cpus("sys/devices/cpu_core/cpus"), files.cpus("sys/devices/cpu_atom/cpus")
    return weak & online if strong and weak else frozenset()
