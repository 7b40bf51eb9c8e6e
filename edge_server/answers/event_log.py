"""Logs: one writer appends, any reader follows from any position."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from spillover.cloud_fallback.events import StreamEvent
from spillover.edge_server.answers.route_taken import RouteTaken, answer_headers
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import Delta, Loading, ReasoningDelta

Event = TypeVar("Event")


class Log(Protocol[Event]):
    """A log as its readers see it. Events are numbered from 1."""

    def read(self, after: int) -> tuple[list[Event], bool]:
        """The next events past number *after*, and whether they are the last ones."""
        ...

    def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Wait until there is an event past *after* or the end; False after *timeout_s*."""
        ...

    def subscribe(self, waker: Callable[[], None], *, at_once: bool = False) -> None:
        """Call *waker* in the writer's thread at each change, with *at_once* now too; it must be
        quick."""
        ...

    def unsubscribe(self, waker: Callable[[], None]) -> None: ...


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
        with self._changed:
            self._wakers.append(waker)
            if at_once:
                waker()

    def unsubscribe(self, waker: Callable[[], None]) -> None:
        with self._changed:
            self._wakers.remove(waker)


class EventLog(Changes):
    """The events of one generation. A reader that leaves never stops the writer; the answer's own
    limits bound the log."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[StreamEvent] = []
        self._closed = False
        self.has_begun = False
        """Whether there was an event of the answer itself; while its model is loaded, it may still
        be refused."""
        self.route = RouteTaken()

    def append(self, event: StreamEvent) -> None:
        if not isinstance(event, Delta | ReasoningDelta):
            self.route.see(event)
        with self._changed:
            self.has_begun |= not isinstance(event, Loading)
            self._events.append(event)
            self._wake()

    def close(self) -> None:
        """No event will follow."""
        with self._changed:
            self._closed = True
            self._wake()

    def read(self, after: int) -> tuple[list[StreamEvent], bool]:
        closed = self._closed
        return self._events[after:], closed

    def take(self) -> tuple[list[StreamEvent], bool]:
        """Read what was not taken yet, and forget it: for a log's only reader."""
        with self._changed:
            events, self._events = self._events, []
            return events, self._closed

    def wait_for_the_first(self, timeout_s: float | None) -> bool:
        """Wait until it has begun, or ended; False after *timeout_s*."""
        with self._changed:
            return self._changed.wait_for(lambda: self.has_begun or self._closed, timeout_s)

    def wait(self, after: int, timeout_s: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: len(self._events) > after or self._closed, timeout_s
            )


class EventSource:
    """Where an answer's events come from: a generation, or several as one."""

    def __init__(self, answer_id: str) -> None:
        self.id = answer_id
        self.log = EventLog()
        self.cancellation = Cancellation()
        self.error: Exception | None = None
        """Why the log ends with Failed, or is empty."""

    def is_decided(self, timeout_s: float | None) -> bool:
        """Whether the first event, or the end, comes within *timeout_s*."""
        return self.log.wait_for_the_first(timeout_s)

    def refusal(self) -> Exception | None:
        """Why the log ended before its first event."""
        return None if self.log.has_begun else self.error

    @property
    def headers(self) -> dict[str, str]:
        """Those of its response."""
        return answer_headers(self.id, self.log.route)
