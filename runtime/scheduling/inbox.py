"""Jobs and cancellations that other threads leave for the loop, and how many may wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from spillover.runtime.embedding.job import EmbeddingJob
from spillover.runtime.errors import EngineBusy, InvalidRequest
from spillover.runtime.request import Priority
from spillover.runtime.scheduling.sequence import Job

Order: TypeAlias = Job | EmbeddingJob | int
"""A job to run, or the id of one to cancel."""

MAX_RETRY_AFTER_S = 600.0

_SETTINGS: dict[Priority, str] = {"normal": "max_queue", "background": "max_background"}
"""The names of what bounds them."""


class Inbox:
    """A first-in, first-out queue of orders. At most n_parallel + max_queue answers may be open,
    and besides them *max_background* of the background."""

    def __init__(self, n_parallel: int, max_queue: int, max_background: int = 0) -> None:
        self._n_parallel = n_parallel
        self._room: dict[Priority, int] = {
            "normal": n_parallel + max_queue,
            "background": max_background,
        }
        self._changed = threading.Condition()
        self._orders: deque[Order] = deque()
        self._stopped = False
        self._woken = False
        self._n_open: dict[Priority, int] = {"normal": 0, "background": 0}
        self._mean_service_s = 1.0

    # --- any thread -------------------------------------------------------------------------

    def submit(self, job: Job, accepted: Callable[[int], None], *, unlimited: bool) -> None:
        """Queue a job after calling *accepted* with the number of answers ahead. Raises EngineBusy
        when there is no room, unless *unlimited*."""
        n, priority = job.n_open, job.request.priority
        room, setting = self._room[priority], _SETTINGS[priority]
        if n > room and not unlimited:
            raise InvalidRequest(
                f"n is {n}, but at most {room} answers may run and wait: "
                f"ask for fewer or raise {setting}",
                "n",
            )
        with self._changed:
            n_open = self._n_open[priority]
            if n_open + n > room and not unlimited:
                raise EngineBusy(
                    f"the queue is full: {n_open} answers are running or waiting, of at most "
                    f"{room}: try again later or raise {setting}",
                    retry_after_s=self._retry_after_s(),
                )
            n_before = sum(self._n_open.values()) if job.is_background else n_open
            ahead = max(n_before - self._n_parallel + 1, 0)
            self._n_open[priority] += n
            accepted(ahead)
            self._orders.append(job)
            self._changed.notify()

    def post(self, order: EmbeddingJob | int) -> None:
        """Queue a job that is counted elsewhere, or a cancellation."""
        with self._changed:
            self._orders.append(order)
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def wake(self) -> None:
        """Make take() return, now or the next time that it waits."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def n_open(self, priority: Priority) -> int:
        """Answers that are running or waiting."""
        return self._n_open[priority]

    def _retry_after_s(self) -> float:
        n_rounds = sum(self._n_open.values()) / self._n_parallel
        return min(max(1.0, self._mean_service_s * n_rounds / 2), MAX_RETRY_AFTER_S)

    # --- the loop ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._orders)

    def take(self, *, wait_s: float | None) -> list[Order] | None:
        """All orders; waits at most *wait_s* (None: as long as it takes) until there is one or
        wake() is called. None once stopped."""
        if wait_s == 0 and not self._orders and not self._stopped:
            return []
        with self._changed:
            self._changed.wait_for(self._has_news, wait_s)
            self._woken = False
            orders = list(self._orders)
            self._orders.clear()
            return None if self._stopped else orders

    def _has_news(self) -> bool:
        return bool(self._orders) or self._stopped or self._woken

    def close_one(self, priority: Priority, service_s: float) -> None:
        """Note that an answer ended *service_s* after it left the queue."""
        with self._changed:
            self._n_open[priority] -= 1
            self._mean_service_s += 0.2 * (service_s - self._mean_service_s)
