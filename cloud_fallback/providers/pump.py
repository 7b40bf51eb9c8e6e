"""Reads an engine's stream in its own thread, for a reader that must also watch the clock, or the
user."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Self

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import EngineEvent


class EndOfStream(Exception):
    """The stream ended without an error."""


MAX_WAITING = 256
"""Events that may wait for the reader; beyond that, the engine's stream is not read."""


Open = Callable[[Cancellation], Generator[EngineEvent]]

_STOP_TIMEOUT_S = 5.0


class Pump:
    """The events of *open_stream(cancellation)*, one at a time, with a limit on each wait.

    A context manager: leaving it cancels the stream and waits for the thread's end.
    """

    def __init__(self, open_stream: Open, cancellation: Cancellation) -> None:
        self._open = open_stream
        self._cancellation = cancellation
        self._events: queue.SimpleQueue[EngineEvent | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(MAX_WAITING)
        self._reader_left = False
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader_left = True
        self._room.release()
        self._cancellation.cancel()
        self._thread.join(_STOP_TIMEOUT_S)

    def next(self, timeout_s: float | None) -> EngineEvent | None:
        """The next event, or None after *timeout_s* of silence, or when woken.

        Once all events are read, raises what the stream raised, or EndOfStream.
        """
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if event is None:
            return None
        if isinstance(event, BaseException):
            self._events.put(event)  # for whoever asks again
            raise event
        self._room.release()
        return event

    def wake(self) -> None:
        """Let next() return None; from any thread."""
        self._events.put(None)

    def _run(self) -> None:
        end: BaseException = EndOfStream()
        try:
            with closing(self._open(self._cancellation)) as events:
                for event in events:
                    self._room.acquire()
                    if self._reader_left:
                        return
                    self._events.put(event)
        except BaseException as error:
            end = error
        finally:
            self._events.put(end)
