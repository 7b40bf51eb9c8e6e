"""Unloads models: others need their memory, or nobody needs them any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.errors import EngineClosed, NoRoomForModel
from spillover.runtime.hosting.load_queue import LoadQueue
from spillover.runtime.hosting.residence import Residence
from spillover.runtime.hosting.room import (
    Room,
    can_stay_beside,
    free_beside,
    idle_longest,
    loaded,
    to_unload,
)
from spillover.runtime.local_engine import LocalEngine

_GIVE_BACK_S = 1.0
"""Within this, workers have dropped what they can make again: they do so between two steps."""

_log = logging.getLogger(__name__)


class Eviction:
    """Of the *residences* of a host, whose lock guards them, and is not held by who calls it."""

    def __init__(
        self,
        lock: threading.Condition,
        residences: list[Residence],
        queue: LoadQueue,
        room: Room,
        free_bytes: Callable[[Iterable[int]], int],
        clock: Callable[[], float],
    ) -> None:
        """*free_bytes*: see ModelHost."""
        self._changed = lock
        self._residences = residences
        self._queue = queue
        self._room = room
        self._free_bytes = free_bytes
        self._clock = clock

    def make_room(self, residence: Residence) -> int | None:
        """Unload others until the model fits; the bytes of the host that it may take then. None:
        nobody waits for it any more. Raises NoRoomForModel, EngineClosed."""
        needed = self._needed(residence)
        try:
            while True:
                with self._changed:
                    held = loaded(self._residences)
                on_host = free_beside(held, self._free_bytes)
                with self._changed:
                    if self._queue.is_closed:
                        raise EngineClosed(f"{residence.spec.name} was closed")
                    if not residence.waiting:
                        return None
                    free = self._room.beside(self._residences, on_host)
                    missing, victim = needed.beyond(free), None
                    if missing.total:
                        victim = to_unload(self._residences, residence, missing)
                    if victim is None:
                        return max(free.host, needed.host)
                    if residence.is_for_background:
                        no_room = NoRoomForModel(residence.spec.name, missing.total)
                        residence.settle_waiting(self._clock(), no_room)
                        return None
                    victim.is_evicted = True
                    self._changed.notify_all()
                    uses = list(victim.uses)
                    if uses and (victim.is_used or all(u.must_yield.cancelled for u in uses)):
                        self._changed.wait()
                        continue
                for use in uses:  # nobody waits for them; not under the lock, as others are told
                    use.must_yield.cancel()
                self.unload(victim)
        finally:
            self._spare()

    def _needed(self, residence: Residence) -> DeviceBytes:
        """The least memory with which the model is loaded: beside all others, where they can stay.
        Raises ModelError."""
        with self._changed:
            gpu = self._room.gpu_for(self._residences, residence)
            now, held = self._room.gpu_now(self._residences), loaded(self._residences)
        least = residence.spec.needed_bytes(gpu)
        if now == gpu:
            return least
        beside = residence.spec.needed_bytes(now)
        on_host = free_beside(held, self._free_bytes)
        with self._changed:
            free = self._room.beside(self._residences, on_host)
        return beside if can_stay_beside(beside, least, free) else least

    def _spare(self) -> None:
        """Let those stay that were to make room and are still here."""
        with self._changed:
            for each in self._residences:
                if each.is_evicted and each.engine is not None:
                    each.is_evicted = False
                    self._queue.remove(each)
                    each.settle_waiting(self._clock())
            self._changed.notify_all()

    def relieve(self, residence: Residence, engine: LocalEngine, n_bytes: int) -> None:
        """The worker of *residence* lacks memory while it answers: let the others drop what they
        can make again or, where that is too little, one that is idle leave. In the reader's
        thread."""

        def relieve() -> None:
            try:
                if not self._get_back(residence, n_bytes):
                    self._unload_idle(residence)
            except OSError as error:  # such as no descriptor to ask the system with
                _log.warning("nothing makes room for %s: %s", residence.spec.name, error)
            finally:
                engine.answer_shortage()

        try:
            threading.Thread(target=relieve, name="relief", daemon=True).start()
        except RuntimeError:  # the system allows no more
            engine.answer_shortage()

    def _get_back(self, residence: Residence, n_bytes: int) -> bool:
        """Let the other models drop what they can make again; whether that freed so much."""
        with self._changed:
            others = [each.engine for each in self._residences if each is not residence]
        before = self._free_bytes(())
        for other in filter(None, others):
            other.give_back(n_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._queue.is_closed or not any(others), _GIVE_BACK_S)
        return self._free_bytes(()) - before >= n_bytes

    def _unload_idle(self, residence: Residence) -> None:
        """The model that is idle and was used least recently makes room for *residence*."""
        with self._changed:
            victim = idle_longest(each for each in self._residences if each is not residence)
        if victim is not None:
            line = "%s is unloaded: memory is short while %s answers"
            _log.warning(line, victim.spec.name, residence.spec.name)
            self.unload(victim)

    def unload(self, residence: Residence) -> None:
        """Unless it is not loaded, or somebody uses it."""
        with self._changed:
            engine = residence.engine
            if engine is None or residence.uses:
                return
            residence.card, residence.engine = engine.card, None
            residence.is_evicted = residence.is_unwanted = False
            self._changed.notify_all()
        engine.close()
