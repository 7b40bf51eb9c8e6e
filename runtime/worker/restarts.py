"""Decides when a crashed worker may start again: pure, the clock is passed in."""

from __future__ import annotations

from collections import deque

WINDOW_S = 600.0
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 15.0


class RestartPolicy:
    """At most *limit* restarts within ten minutes: the first at once, then with growing delays."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque()
        self.n_restarts = 0

    def next_delay_s(self, now: float) -> float | None:
        """Seconds to wait before the restart after a death at *now*; None: give up."""
        while self._times and now - self._times[0] > WINDOW_S:
            self._times.popleft()
        n_recent = len(self._times)
        if n_recent >= self._limit:
            return None
        self._times.append(now)
        self.n_restarts += 1
        if n_recent == 0:
            return 0.0
        return min(FIRST_DELAY_S * 2.0 ** (n_recent - 1), MAX_DELAY_S)
