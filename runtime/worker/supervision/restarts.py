"""Decides when a crashed worker may start again: pure, the clock is passed in."""

from __future__ import annotations

from collections import deque

WINDOW_S = 600.0
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 15.0
FIRST_PAUSE_S = 30.0
MAX_PAUSE_S = 600.0


class RestartPolicy:
    """At most *limit* restarts within ten minutes: the first at once, then with growing delays;
    beyond that, one after each pause, and the pauses grow."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque()
        self._n_pauses = 0
        self.n_restarts = 0

    def next_delay_s(self, now: float) -> float | None:
        """Seconds to wait before the restart after a death at *now*; None: pause."""
        while self._times and now - self._times[0] > WINDOW_S:
            self._times.popleft()
        n_recent = len(self._times)
        if n_recent >= self._limit:
            return None
        if n_recent == 0:
            self._n_pauses = 0
        self._times.append(now)
        self.n_restarts += 1
        if n_recent == 0:
            return 0.0
        return min(FIRST_DELAY_S * 2.0 ** (n_recent - 1), MAX_DELAY_S)

    def next_pause_s(self) -> float:
        """Seconds to wait before the restart after one death too many."""
        self.n_restarts += 1
        self._n_pauses += 1
        return min(FIRST_PAUSE_S * 2.0 ** (self._n_pauses - 1), MAX_PAUSE_S)
