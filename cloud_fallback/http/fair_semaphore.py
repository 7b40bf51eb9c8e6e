"""A bound on what runs at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator

from spillover.cloud_fallback.http.exchange import Exchange


class FairSemaphore:
    """First come, first served; an exchange that is cancelled stops waiting."""

    def __init__(self, n: int) -> None:
        self._lock = threading.Lock()
        self._n_free = n
        self._waiting: deque[threading.Event] = deque()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def acquire(self, exchange: Exchange) -> None:
        """Wait for a place. Raises Cancelled or TimedOut."""
        with self._lock:
            if self._n_free:
                self._n_free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        try:
            exchange.wait(mine)
            exchange.check()
        except BaseException:
            self._give_up(mine)
            raise

    def release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._n_free += 1

    @contextlib.contextmanager
    def held_for(self, exchange: Exchange) -> Generator[None]:
        """Hold a place inside the block. Raises Cancelled or TimedOut."""
        self.acquire(exchange)
        try:
            yield
        finally:
            self.release()

    def _give_up(self, mine: threading.Event) -> None:
        """Leave the queue; a place that was granted meanwhile goes to the next."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(mine)
            return
        self.release()
