"""Saves, restores and copies long conversations in parts, between the steps of those that run."""

from __future__ import annotations

from collections.abc import Callable

from spillover.runtime.backend import N_PART
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.scheduling.admission import Admission
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.pace.pace import Pace
from spillover.runtime.scheduling.queues import Queues


class KvMoves:
    """Belongs to the loop."""

    def __init__(
        self,
        kv: KvCache,
        queues: Queues,
        admission: Admission,
        pace: Pace,
        inbox: Inbox,
        clock: Callable[[], float],
    ) -> None:
        self._kv = kv
        self._queues = queues
        self._admission = admission
        self._pace = pace
        self._inbox = inbox
        self._clock = clock

    @property
    def are_awaited(self) -> bool:
        """Whether a prompt waits for them."""
        return bool(self._queues.filling) or self._kv.is_making_room

    @property
    def part_s(self) -> float:
        """Seconds that a part takes."""
        return self._pace.take_s(N_PART)

    def make(self, room_s: float) -> None:
        """Move a part, if there is one, and while a prompt waits for them as many as fit into
        *room_s*."""
        started = self._clock()
        while self._make_one() and self.are_awaited and not self._inbox:
            if self.part_s > room_s - (self._clock() - started):
                return

    def _make_one(self) -> int:
        """The number of its tokens."""
        started, is_making_room = self._clock(), self._kv.is_making_room
        if self._queues.filling and not is_making_room:
            n = self._admission.fill_part(self._queues.filling[0])
        else:
            n = self._kv.save_part(self._queues.n_unread + N_PART)
        if is_making_room and not self._kv.is_making_room:
            self._queues.may_admit = True
        if n >= N_PART // 2:  # a few take about as long as some hundred
            self._pace.observe_take(n, self._clock() - started)
        return n
