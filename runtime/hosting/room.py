"""The room that loaded models leave, and which of them is to make more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spillover.runtime.errors import NoRoomForModel
from spillover.runtime.hosting.memory import resident_bytes
from spillover.runtime.hosting.residence import Residence
from spillover.runtime.local_engine import LocalEngine


def loaded(residences: Iterable[Residence]) -> dict[LocalEngine, int]:
    """The engines of those that are loaded, and the bytes that each holds."""
    return {each.engine: each.held_bytes for each in residences if each.engine}


def free_beside(held: dict[LocalEngine, int], free_bytes: Callable[[Iterable[int]], int]) -> int:
    """Bytes that are free beside the loaded engines: *free_bytes* of their process ids. One whose
    worker is being replaced will take its memory again."""
    pids = {engine: engine.worker_pid for engine in held}
    present = [pid for pid in pids.values() if pid is not None]
    absent = 0
    for engine, n_bytes in held.items():
        if engine.health().state not in ("ready", "hung"):
            absent += max(n_bytes - resident_bytes(pids[engine]), 0)
    return free_bytes(present) - absent


def to_unload(
    residences: Iterable[Residence], residence: Residence, missing_bytes: int
) -> Residence | None:
    """The model to unload next for *residence*, for which so much is missing; None: there is none,
    and it is loaded all the same. Raises NoRoomForModel."""
    may_leave = [each for each in residences if each.engine and not each.spec.is_pinned]
    missing = missing_bytes - sum(each.held_bytes for each in may_leave)
    if missing > 0 and residence.spec.must_fit:
        raise NoRoomForModel(residence.spec.name, missing)
    return min(
        may_leave,
        key=lambda each: (each.is_used, bool(each.uses), each.used_at),
        default=None,
    )


def idle_longest(residences: Iterable[Residence]) -> Residence | None:
    """Of those that may be unloaded and are idle, the one that was used least recently."""
    idle = [each for each in residences if each.is_idle and not each.spec.is_pinned]
    return min(idle, key=lambda each: each.used_at, default=None)
