"""Reads logs on an event loop, at little cost per event.

The writers' threads wake the loop once for all streams that have news, and one timer per stream
watches for silence instead of one per wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from spillover.edge_server.answers.event_log import Log

Event = TypeVar("Event")


class LoopCalls:
    """Calls functions on the loop for other threads: all that are posted before the loop gets to
    them cost one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread; does nothing once the loop has ended."""
        self._posted.append(callback)
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # the loop has ended; nobody reads any more
                return

    def _run(self) -> None:
        # Before the calls: what is posted meanwhile is either called here or schedules anew.
        self._scheduled = False
        for _ in range(len(self._posted)):
            self._posted.popleft()()


class LoopReader(Generic[Event]):
    """Reads one log on the loop, past number *after*. *silence_s* after the client got something
    for the last time, which spoke() tells, next() returns None."""

    def __init__(
        self, log: Log[Event], calls: LoopCalls, silence_s: float | None, after: int = 0
    ) -> None:
        self._log = log
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._silence_s = silence_s
        self._spoke = self._loop.time()
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._posted = False
        self._after = after
        if silence_s is not None:
            self._timer = self._loop.call_later(silence_s, self._look_at_the_clock, silence_s)
        log.subscribe(self._on_change)

    def _on_change(self) -> None:
        """In the writer's thread."""
        if not self._posted:
            self._posted = True
            self._calls.post(self._wake)

    def _wake(self) -> None:
        self._posted = False
        self._resolve(True)

    def _resolve(self, has_news: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(has_news)

    def _look_at_the_clock(self, silence_s: float) -> None:
        """When the timer fires: was there silence? It is not reset for each event."""
        left_s = self._spoke + silence_s - self._loop.time()
        if left_s <= 0:
            self._resolve(False)
            left_s = silence_s
        self._timer = self._loop.call_later(left_s, self._look_at_the_clock, silence_s)

    async def next(self) -> tuple[list[Event], bool] | None:
        """New events, and whether they are the last ones; None when the client waits for a sign of
        life: also beside events of which it is shown nothing.

        Raises what the log raises.
        """
        while True:
            events, closed = self._log.read(self._after)
            if events or closed:
                self._after += len(events)
                return events, closed
            self._waiter = self._loop.create_future()
            if not await self._waiter:
                self.spoke()
                return None

    def spoke(self) -> None:
        """The client got something."""
        self._spoke = self._loop.time()

    def close(self) -> None:
        self._log.unsubscribe(self._on_change)
        if self._timer is not None:
            self._timer.cancel()
