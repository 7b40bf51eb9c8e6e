"""Tells a worker that hangs from one that is slow: pure, what was seen is passed in."""

from __future__ import annotations

from msgspec import Struct

N_LOOKS = 5
"""Looks in a row without a sign of life, after which a worker hangs."""

N_SLOW_LOOKS = 30 * N_LOOKS
"""Looks in a row without progress, after which a worker hangs although it computes."""

BUSY_SHARE = 0.005
"""Of a core: a process that uses more is at work. Swapping does, answering a question does not."""


class Usage(Struct, frozen=True):
    """What a process has used of the machine."""

    cpu_s: float
    memory_bytes: int
    """In RAM: a model that is mapped comes there piece by piece."""
    read_bytes: int
    """From disks."""


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
    usage: Usage | None
    """What its process has used; None where the system does not tell."""
    loads: bool = False
    """It is loading its model, and answers nothing until that is done."""


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
        is_slow = self._n_slow >= N_SLOW_LOOKS and not signs.loads  # which has a limit of its own
        return self._n_silent >= N_LOOKS or is_slow

    def _is_busy(self, last: Signs, signs: Signs) -> bool:
        before, now = last.usage, signs.usage
        if before is None or now is None:
            return True
        if now.cpu_s - before.cpu_s > BUSY_SHARE * self._interval_s:
            return True
        has_grown = (now.memory_bytes, now.read_bytes) != (before.memory_bytes, before.read_bytes)
        return signs.loads and has_grown


def _has_progressed(last: Signs, signs: Signs) -> bool:
    return signs.answers and (not signs.has_work or signs.n_steps != last.n_steps)
