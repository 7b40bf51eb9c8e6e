"""Reads a provider's stream in its own thread, for a reader that must also watch the clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Self

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import EngineEvent


class EndOfStream(Exception):
    """The stream ended without an error."""


MAX_WAITING = 256
"""Events that may wait for the reader; beyond that, the provider's stream is not read."""


Open = Callable[[Cancellation], Generator[EngineEvent]]

_STOP_TIMEOUT_S = 5.0


class Pump:
    """The events of *open_stream(cancellation)*, one at a time, with a limit on each wait.

    A context manager: leaving it cancels the stream and waits for the thread's end.
    """

    def __init__(self, open_stream: Open, cancellation: Cancellation) -> None:
        self._open = open_stream
        self._cancellation = cancellation
        self._changed = threading.Condition()
        self._events: deque[EngineEvent] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._left = False
        self._thread = threading.Thread(target=self._run, name="cloud-stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._cancellation.cancel()
        self._thread.join(_STOP_TIMEOUT_S)

    def next(self, timeout_s: float | None) -> EngineEvent | None:
        """The next event, or None after *timeout_s* of silence.

        Once all events are read, raises what the stream raised, or EndOfStream.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._events or self._ended, timeout_s):
                return None
            if self._events:
                event = self._events.popleft()
                self._changed.notify_all()
                return event
        raise self._error or EndOfStream

    def _run(self) -> None:
        try:
            with closing(self._open(self._cancellation)) as events:
                for event in events:
                    if not self._put(event):
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, event: EngineEvent) -> bool:
        """Wait for room; False when the reader has left."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) < MAX_WAITING or self._left)
            self._events.append(event)
            self._changed.notify_all()
            return not self._left
