"""Tells a worker that hangs from one that is slow: pure, what was seen is passed in."""

from __future__ import annotations

from msgspec import Struct

N_LOOKS = 5
"""Looks in a row without a sign of life, after which a worker hangs."""

N_SLOW_LOOKS = 30 * N_LOOKS
"""Looks in a row without progress, after which a worker hangs although it computes."""

BUSY_SHARE = 0.005
"""Of a core: a process that uses more is at work. Swapping does, answering a question does not."""


class Signs(Struct, frozen=True, kw_only=True):
    """What is known of a worker at one moment."""

    answers: bool
    """It has answered since the last look."""
    has_work: bool
    """Requests are under way."""
    loop_has_work: bool
    """And its loop has some of them, as of its last answer; the others are still prepared, which
    a limited process may do."""
    n_steps: int
    """Calls of the model that it has made, as of its last answer."""
    cpu_s: float | None
    """CPU time of its process; None where the system does not tell."""


class Watchdog:
    """Looks at one worker every *interval_s* seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last: Signs | None = None
        self._n_silent = 0
        self._n_slow = 0

    @property
    def is_suspicious(self) -> bool:
        """Whether the worker may hang."""
        return self._n_silent > 1

    def look(self, signs: Signs) -> bool:
        """Whether the worker hangs."""
        last, self._last = self._last, signs
        if last is None or _has_progressed(last, signs):
            self._n_silent = self._n_slow = 0
            return False
        self._n_slow += 1
        prepares = signs.answers and not signs.loop_has_work
        is_busy = prepares or self._is_busy(last, signs)
        self._n_silent = 0 if is_busy else self._n_silent + 1
        return self._n_silent >= N_LOOKS or self._n_slow >= N_SLOW_LOOKS

    def _is_busy(self, last: Signs, signs: Signs) -> bool:
        if last.cpu_s is None or signs.cpu_s is None:
            return True
        return signs.cpu_s - last.cpu_s > BUSY_SHARE * self._interval_s


def _has_progressed(last: Signs, signs: Signs) -> bool:
    return signs.answers and (not signs.has_work or signs.n_steps != last.n_steps)
