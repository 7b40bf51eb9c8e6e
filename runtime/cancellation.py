"""Cancellation: the only thing that travels upstream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Cancellation:
    """A one-way switch that any thread may set; each subscriber is called once, in that thread.

    A subscriber must be quick and must not raise.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call *callback* on cancellation, or now if already cancelled."""
        with self._lock:
            if not self._cancelled:
                self._subscribers.append(callback)
                return
        callback()

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

    @contextmanager
    def subscribed(self, callback: Callable[[], None]) -> Generator[None]:
        """Subscribe *callback* while the block runs."""
        self.subscribe(callback)
        try:
            yield
        finally:
            self.unsubscribe(callback)

    def wait(self, timeout_s: float) -> None:
        """Block until cancellation, at most *timeout_s*."""
        woken = threading.Event()
        with self.subscribed(woken.set):
            woken.wait(timeout_s)

    def cancel(self) -> None:
        with self._lock:
            subscribers, self._subscribers = self._subscribers, []
            self._cancelled = True
        for callback in subscribers:
            callback()
