"""One generation's events: one writer appends, any reader follows from any position."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

from spillover.runtime.events import StreamEvent


class StreamLog:
    """Append-only; the position of an event is its number from 1. A reader that leaves never
    stops the writer. Bounded by the answer's own limits."""

    def __init__(self) -> None:
        self._events: list[StreamEvent] = []
        self._closed = False
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []

    def append(self, event: StreamEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._wake()

    def close(self) -> None:
        """No event will follow."""
        with self._changed:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        for waker in self._wakers:
            waker()

    def read(self, after: int) -> tuple[list[StreamEvent], bool]:
        """The events past position *after*, and whether they are the last ones."""
        closed = self._closed
        return self._events[after:], closed

    def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Wait until there is an event past *after* or the end; False after *timeout_s*."""
        with self._changed:
            return self._changed.wait_for(
                lambda: len(self._events) > after or self._closed, timeout_s
            )

    def follow(self, after: int = 0) -> Generator[tuple[int, StreamEvent]]:
        """Yield (position, event) past *after*, waiting for more until the log is closed."""
        while True:
            self.wait(after)
            events, closed = self.read(after)
            for event in events:
                after += 1
                yield after, event
            if closed and not events:
                return

    def subscribe(self, waker: Callable[[], None]) -> None:
        """Call *waker* in the writer's thread at each change; it must be quick."""
        with self._changed:
            self._wakers.append(waker)

    def unsubscribe(self, waker: Callable[[], None]) -> None:
        with self._changed:
            self._wakers.remove(waker)
