"""Connections that were opened ahead and wait for their first request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

LONGEST_S = 55.0
"""Servers close a connection without a request after 60 s or more, mostly."""

Place: TypeAlias = tuple[str, int]
"""Host and port."""


class Closable(Protocol):
    def close(self) -> None: ...


Stream = TypeVar("Stream", bound=Closable)


class Parking(Generic[Stream]):
    """At most one connection for each place. May be used from any thread."""

    def __init__(
        self, is_alive: Callable[[Stream], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_alive = is_alive
        self._clock = clock
        self._lock = threading.Lock()
        self._parked: dict[Place, tuple[Stream, float]] = {}

    def park(self, place: Place, stream: Stream) -> None:
        """Keep *stream* for the next take(); one that is there already is closed."""
        with self._lock:
            before = self._parked.get(place)
            self._parked[place] = (stream, self._clock())
        if before:
            before[0].close()

    def take(self, place: Place) -> Stream | None:
        """The connection to *place*, if one waits and lives."""
        with self._lock:
            found = self._parked.pop(place, None)
        if found is None:
            return None
        stream, since = found
        if self._clock() - since <= LONGEST_S and self._is_alive(stream):
            return stream
        stream.close()
        return None

    def has(self, place: Place) -> bool:
        """Whether take() would find one; a dead one is closed."""
        stream = self.take(place)
        if stream is None:
            return False
        self.park(place, stream)
        return True

    def close(self) -> None:
        with self._lock:
            parked, self._parked = self._parked, {}
        for stream, _ in parked.values():
            stream.close()
