"""A bound on the requests that run at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator

from spillover.cloud_fallback.http.call import Call


class Slots:
    """First come, first served; who waits can be stopped."""

    def __init__(self, n: int) -> None:
        self._lock = threading.Lock()
        self._n_free = n
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, call: Call) -> None:
        """Wait for a slot. Raises Stopped or TimedOut."""
        with self._lock:
            if self._n_free:
                self._n_free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        try:
            call.wait(mine)
            call.check()
        except BaseException:
            self._give_up(mine)
            raise

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def one(self, call: Call) -> Generator[None]:
        """Hold a slot for a while. Raises Stopped or TimedOut."""
        self.acquire(call)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._n_free += 1

    def _give_up(self, mine: threading.Event) -> None:
        """Leave the queue; a slot that came meanwhile goes to the next."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(mine)
            return
        self.release()
