"""What the logs share: waiting for news, and being woken by them."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Changes:
    """Base of a log with one writer. Its lock is held while wakers are called."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []

    def _wake(self) -> None:
        """There is news; the lock is held."""
        self._changed.notify_all()
        for waker in self._wakers:
            waker()

    def subscribe(self, waker: Callable[[], None], *, at_once: bool = False) -> None:
        """Call *waker* in the writer's thread at each change, with *at_once* now too; it must be
        quick."""
        with self._changed:
            self._wakers.append(waker)
            if at_once:
                waker()

    def unsubscribe(self, waker: Callable[[], None]) -> None:
        with self._changed:
            self._wakers.remove(waker)
