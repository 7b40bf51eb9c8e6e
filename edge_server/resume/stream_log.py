"""The log of a resumable stream: numbered events, one writer, any number of readers."""

from __future__ import annotations

from typing import Protocol

from spillover.edge_server.answers.event_log import Changes, Log
from spillover.edge_server.wire.errors import WireError

MOST_AT_ONCE = 256
"""Most events per read, which bounds what a slow reader holds."""
_OVERHEAD_BYTES = 48
"""Memory that an event takes besides its bytes."""


class CursorTooOld(WireError):
    """Events after this cursor are no longer kept."""

    def __init__(self, after: int) -> None:
        super().__init__(410, f"the events after {after} are gone: the client reads too slowly")


class StreamLog(Log[bytes], Protocol):
    """Any thread may use it, but only the writer appends. read() raises CursorTooOld."""

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept; of the next one if none is."""
        ...

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        ...

    @property
    def closed(self) -> bool: ...

    def append(self, event: bytes) -> int:
        """Add an event, which every reader can get at once, and return its number."""
        ...

    def close(self) -> None:
        """End the log: no event will follow."""
        ...


class MemoryLog(Changes):
    """Keeps the newest events in memory, up to *max_bytes*, and always the last one."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._events: list[bytes] = []
        self._n_dropped = 0
        self._n_stale = 0  # dropped events that are still in the list
        self._n_bytes = 0
        self._closed = False

    @property
    def first(self) -> int:
        return self._n_dropped + 1

    @property
    def last(self) -> int:
        with self._changed:
            return self._n_dropped + len(self._events) - self._n_stale

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def n_bytes(self) -> int:
        return self._n_bytes

    def append(self, event: bytes) -> int:
        with self._changed:
            assert not self._closed, "a closed log takes no events"
            self._events.append(event)
            self._n_bytes += len(event) + _OVERHEAD_BYTES
            self._drop_oldest()
            self._wake()
            return self.last

    def _drop_oldest(self) -> None:
        while self._n_bytes > self._max_bytes and self._n_stale < len(self._events) - 1:
            self._n_bytes -= len(self._events[self._n_stale]) + _OVERHEAD_BYTES
            self._events[self._n_stale] = b""
            self._n_stale += 1
            self._n_dropped += 1
        if self._n_stale * 2 > len(self._events):
            del self._events[: self._n_stale]
            self._n_stale = 0

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._wake()

    def read(self, after: int) -> tuple[list[bytes], bool]:
        with self._changed:
            if after < self._n_dropped:
                raise CursorTooOld(after)
            start = after - self._n_dropped + self._n_stale
            events = self._events[start : start + MOST_AT_ONCE]
            return events, self._closed and start + len(events) >= len(self._events)

    def wait(self, after: int, timeout_s: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.last > after or self._closed, timeout_s)
