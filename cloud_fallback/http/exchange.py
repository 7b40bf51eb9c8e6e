"""One request and its response: its time limits, how far it got, and how another thread ends it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.http.errors import Cancelled, TimedOut

Clock: TypeAlias = Callable[[], float]
OnCancel: TypeAlias = Callable[[], None]


class Outgoing(Struct, frozen=True, kw_only=True):
    """A request with its whole address and its key."""

    url: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"
    direct: bool = False
    """Not through the proxy."""


class Exchange:
    """Used by the thread that sends and reads; any thread may call cancel().

    *deadline* is a reading of *clock*. The reading thread may move it at any time; it bounds
    every single wait. *waits_for* says in an error what did not come.
    """

    def __init__(
        self,
        deadline: float = math.inf,
        *,
        connect_timeout_s: float = math.inf,
        near_only: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.deadline = deadline
        self.connect_timeout_s = connect_timeout_s
        self.near_only = near_only
        """Connect to addresses of this device and of the LAN only, whatever the name leads to."""
        self.waits_for = "an answer"
        self.clock = clock
        self.n_received = 0
        """Bytes received on the connection in use."""
        self.n_sent = 0
        """Bytes of the request sent on the connection in use."""
        self.was_kept_alive = False
        """The connection in use existed before the exchange."""
        self.cancelled = False
        self._lock = threading.Lock()
        self._on_cancel: OnCancel | None = None

    def cancel(self) -> None:
        """End the exchange: whatever it waits for ends at once, with Cancelled. Never raises."""
        with self._lock:
            self.cancelled = True
            if self._on_cancel is not None:
                self._on_cancel()

    def attach(self, on_cancel: OnCancel) -> None:
        """Let cancel() call *on_cancel*, until detach(). It must neither wait nor raise.

        Raises Cancelled.
        """
        with self._lock:
            if self.cancelled:
                raise Cancelled("cancelled")
            self._on_cancel = on_cancel

    def detach(self, on_cancel: OnCancel) -> None:
        """Once this returns, *on_cancel* is not called any more."""
        with self._lock:
            if self._on_cancel == on_cancel:
                self._on_cancel = None

    def check(self) -> None:
        """Raise Cancelled or TimedOut if it is time."""
        if self.cancelled:
            raise Cancelled("cancelled")
        if self.clock() >= self.deadline:
            raise self.timed_out()

    def timed_out(self) -> TimedOut:
        return TimedOut(f"{self.waits_for} did not come in time")

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, None for no limit. Raises Cancelled or TimedOut."""
        self.check()
        if self.deadline == math.inf:
            return None
        return max(self.deadline - self.clock(), 0.001)

    def wait(self, event: threading.Event) -> None:
        """Wait until *event* is set. Raises Cancelled or TimedOut."""
        self.attach(event.set)
        try:
            event.wait(self.remaining_s())
        finally:
            self.detach(event.set)
        if self.cancelled or not event.is_set():
            self.check()

    @contextlib.contextmanager
    def within(self, seconds: float, waits_for: str) -> Generator[None]:
        """Apply a nearer deadline inside the block."""
        before = self.deadline, self.waits_for
        if self.clock() + seconds < self.deadline:
            self.deadline, self.waits_for = self.clock() + seconds, waits_for
        try:
            yield
        finally:
            self.deadline, self.waits_for = before
