"""Keeps a crowd from running into a provider of which nothing is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from spillover.runtime.cancellation import Cancellation

SCOUTS = 4
"""Requests that may be under way to a provider that has not answered anybody lately."""
KNOWN_FOR_S = 60.0
"""An answer vouches for the provider so long."""
LONGEST_WAIT_S = 10.0


class Gate:
    """One for each provider. Any thread may use it; enter() may wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._n_unanswered = 0
        self._known_until = float("-inf")

    @contextmanager
    def enter(self, cancellation: Cancellation) -> Generator[Callable[[], None] | None]:
        """Wait for a turn: the block gets what to call when the provider answers, or None when
        no turn came in time or *cancellation* did."""
        may = self._wait(cancellation)
        over = not may

        def answered() -> None:
            nonlocal over
            with self._changed:
                self._known_until = self._clock() + KNOWN_FOR_S
                if not over:
                    over = True
                    self._n_unanswered -= 1
                self._changed.notify_all()

        try:
            yield answered if may else None
        finally:
            with self._changed:
                if not over:
                    over = True
                    self._n_unanswered -= 1
                self._changed.notify_all()

    def _wait(self, cancellation: Cancellation) -> bool:
        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        cancellation.subscribe(wake)
        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_open or cancellation.cancelled, LONGEST_WAIT_S
                )
                may = self._is_open and not cancellation.cancelled
                self._n_unanswered += may
                return may
        finally:
            cancellation.unsubscribe(wake)

    @property
    def is_open(self) -> bool:
        """Whether enter() would go ahead at once, at this moment."""
        with self._changed:
            return self._is_open

    @property
    def _is_open(self) -> bool:
        return self._n_unanswered < SCOUTS or self._clock() < self._known_until
