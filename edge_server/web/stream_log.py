"""One generation's events: one writer appends, any reader follows from any position."""

from __future__ import annotations

from collections.abc import Generator

from spillover.cloud_fallback.events import StreamEvent
from spillover.edge_server.web.changes import Changes


class StreamLog(Changes):
    """Append-only; the position of an event is its number from 1. A reader that leaves never
    stops the writer. Bounded by the answer's own limits."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[StreamEvent] = []
        self._closed = False

    def append(self, event: StreamEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._wake()

    def close(self) -> None:
        """No event will follow."""
        with self._changed:
            self._closed = True
            self._wake()

    def read(self, after: int) -> tuple[list[StreamEvent], bool]:
        """The events past position *after*, and whether they are the last ones."""
        closed = self._closed
        return self._events[after:], closed

    def take(self) -> tuple[list[StreamEvent], bool]:
        """As read(), of all that was not taken yet, and forgets it: for a log's only reader."""
        with self._changed:
            events, self._events = self._events, []
            return events, self._closed

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
