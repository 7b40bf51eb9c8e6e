"""The room that loaded models leave, on each device, and which of them is to make more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import structs

from spillover.runtime.device_bytes import DeviceBytes, together
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import NoRoomForModel
from spillover.runtime.fit.device_fit import COMPUTE_BYTES
from spillover.runtime.fit.model_shape import GpuMemory
from spillover.runtime.hosting.memory import resident_bytes
from spillover.runtime.hosting.residence import Residence
from spillover.runtime.local_engine import LocalEngine

_MOST_LAYERS = 0.5
"""Of what the GPUs would hold of a model without the others, the share with which it does not make
them leave: with less it would be far slower than it could be."""


def loaded(residences: Iterable[Residence]) -> dict[LocalEngine, DeviceBytes]:
    """The engines of those that are loaded, and the bytes that each holds."""
    return {each.engine: each.held_bytes for each in residences if each.engine}


def free_beside(
    held: dict[LocalEngine, DeviceBytes], free_bytes: Callable[[Iterable[int]], int]
) -> int:
    """Bytes of the host that are free beside the loaded engines: *free_bytes* of their process ids.
    One whose worker is being replaced will take its memory again."""
    pids = {engine: engine.worker_pid for engine in held}
    present = [pid for pid in pids.values() if pid is not None]
    absent = 0
    for engine, part in held.items():
        if engine.health().state not in ("ready", "hung"):
            absent += max(part.host - resident_bytes(pids[engine]), 0)
    return free_bytes(present) - absent


class Room:
    """What the devices have for models. This process opens no library that could ask the GPUs: it
    goes by what workers have seen there before they loaded their models."""

    def __init__(self, budget_bytes: int | None, gpu: GpuMemory | None) -> None:
        """*budget_bytes*: most of the host for all models; None: no limit. *gpu*: what the GPUs
        have at most, until a worker tells; None: there is none."""
        self._budget_bytes = budget_bytes
        self._gpu = gpu

    def gpu_for(self, residences: Iterable[Residence], residence: Residence) -> GpuMemory | None:
        """What *residence* finds free on the GPUs when all have left that may: none of them for the
        background, and nobody who is pinned."""
        stay = [each for each in residences if each.spec.is_pinned or residence.is_for_background]
        return self._gpu_beside(each.held_bytes for each in stay)

    def gpu_now(self, residences: Iterable[Residence]) -> GpuMemory | None:
        """What is free on the GPUs beside those that are loaded."""
        return self._gpu_beside(each.held_bytes for each in residences)

    def beside(self, residences: Iterable[Residence], on_host: int) -> DeviceBytes:
        """What is free beside those that are loaded, where *on_host* bytes are free on the host."""
        held = [each.held_bytes for each in residences]
        if self._budget_bytes is not None:
            on_host = min(on_host, self._budget_bytes - sum(each.host for each in held))
        gpu = self._gpu_beside(held)
        return DeviceBytes(host=on_host, gpus=() if gpu is None else gpu.own)

    def _gpu_beside(self, held: Iterable[DeviceBytes]) -> GpuMemory | None:
        if self._gpu is None:
            return None
        free = DeviceBytes(gpus=self._gpu.free).beyond(together(held)).gpus
        return structs.replace(self._gpu, free=free[: len(self._gpu.free)])

    def learn(self, card: ModelCard, others: Iterable[DeviceBytes]) -> None:
        """A model was loaded beside *others*."""
        if card.gpu_free_bytes:
            free = together((DeviceBytes(gpus=card.gpu_free_bytes), *others)).gpus
            self._gpu = GpuMemory(free=free[: len(card.gpu_free_bytes)])


def can_stay_beside(needed: DeviceBytes, least: DeviceBytes, free: DeviceBytes) -> bool:
    """Whether a model is loaded beside all others with *needed*, although the GPUs would hold more
    of it without them, with *least*: they would not hold all of it even then. Otherwise a small
    model and one that is larger than the GPUs would make room for each other in turn."""
    is_partly_there = least.host > COMPUTE_BYTES
    has_most = sum(needed.gpus) >= _MOST_LAYERS * sum(least.gpus)
    return is_partly_there and has_most and not needed.beyond(free).total


def to_unload(
    residences: Iterable[Residence], residence: Residence, missing: DeviceBytes
) -> Residence | None:
    """The model to unload next for *residence*, for which so much is *missing*; None: there is
    none, and it is loaded all the same. Raises NoRoomForModel."""
    may_leave = [each for each in residences if each.engine and not each.spec.is_pinned]
    lasting = missing.beyond(together(each.held_bytes for each in may_leave))
    if lasting.host > 0 and residence.spec.must_fit:
        raise NoRoomForModel(residence.spec.name, lasting.host)
    if any(lasting.gpus):  # nobody leaves for what no GPU would have even then
        missing = DeviceBytes(host=missing.host)
    return min(
        (each for each in may_leave if each.held_bytes.shares_a_device(missing)),
        key=lambda each: (each.is_used, bool(each.uses), each.used_at),
        default=None,
    )


def idle_longest(residences: Iterable[Residence]) -> Residence | None:
    """Of those that may be unloaded and are idle, the one that was used least recently."""
    idle = [each for each in residences if each.is_idle and not each.spec.is_pinned]
    return min(idle, key=lambda each: each.used_at, default=None)
