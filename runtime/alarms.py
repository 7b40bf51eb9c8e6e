"""Calls functions at given times: one thread for all of them, instead of one per wait."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Alarm:
    """One future call."""

    def __init__(self, alarms: Alarms, callback: Callable[[], object]) -> None:
        self._alarms = alarms
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not make the call; one that is running now continues. May be called again."""
        self._alarms.forget(self)


class Alarms:
    """Calls back at given times of *clock*, in its own thread, which blocks in between.

    A callback must be quick and must not raise. The thread starts with the first alarm.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._n_dead = 0  # cancelled ones that are still in the heap

    def at(self, when: float, callback: Callable[[], object]) -> Alarm:
        """Call *callback* at *when* (in seconds of the clock), or at once if that has passed."""
        alarm = Alarm(self, callback)
        with self._changed:
            if self._closed:
                return alarm
            heapq.heappush(self._heap, (when, next(self._numbers), alarm))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                thread.start()
                self._thread = thread  # not one that the system did not give
            elif self._heap[0][2] is alarm:
                self._changed.notify()
        return alarm

    def after(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        """Call *callback* in *delay_s* seconds."""
        return self.at(self._clock() + delay_s, callback)

    def forget(self, alarm: Alarm) -> None:
        with self._changed:
            if alarm.callback is None:
                return
            alarm.callback = None
            self._n_dead += 1
            if self._n_dead > 64 and self._n_dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapq.heapify(self._heap)
                self._n_dead = 0

    def close(self) -> None:
        """Drop every alarm and end the thread."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                callback = self._next()
            if callback is None:
                return
            callback()

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next call that is due; None when closed. The lock is held."""
        while not self._closed:
            if not self._heap:
                self._changed.wait()
                continue
            when, _, alarm = self._heap[0]
            if alarm.callback is None:
                heapq.heappop(self._heap)
                self._n_dead -= 1
                continue
            left_s = when - self._clock()
            if left_s <= 0:
                heapq.heappop(self._heap)
                callback, alarm.callback = alarm.callback, None
                return callback
            self._changed.wait(left_s)
        return None
