"""One request under way: when it must be over, and how another thread ends it."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeAlias

from spillover.cloud_fallback.http.errors import Stopped, TimedOut

Clock: TypeAlias = Callable[[], float]


class Call:
    """Made and used by the thread that sends and reads; any thread may call stop().

    *deadline* is a reading of *clock* and may be moved at any time by the reading thread; it
    bounds every single wait. *waits_for* says in an error what did not come.
    """

    def __init__(
        self,
        deadline: float = math.inf,
        *,
        connect_timeout_s: float = math.inf,
        clock: Clock = time.monotonic,
    ) -> None:
        self.deadline = deadline
        self.connect_timeout_s = connect_timeout_s
        self.waits_for = "an answer"
        self.clock = clock
        self.n_received = 0
        """Bytes that have come on the connection in use."""
        self.n_sent = 0
        """Bytes of the request that have left on the connection in use."""
        self.was_kept_alive = False
        """The connection in use was there before the call."""
        self._lock = threading.Lock()
        self._stopped = False
        self._socket: socket.socket | None = None
        self._wake: Callable[[], None] | None = None

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """End the call: what it waits for ends at once, with Stopped. Never raises."""
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                _shut_down(self._socket)
            if self._wake is not None:
                self._wake()

    def check(self) -> None:
        """Raise Stopped or TimedOut if it is time."""
        if self._stopped:
            raise Stopped("stopped")
        if self.clock() >= self.deadline:
            raise TimedOut(self.waits_for)

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, None for ever; raises Stopped or TimedOut."""
        self.check()
        if self.deadline == math.inf:
            return None
        return max(self.deadline - self.clock(), 0.001)

    def attach(self, sock: socket.socket) -> None:
        """stop() shuts *sock* down, until detach(). Raises Stopped."""
        with self._lock:
            if self._socket is not sock:
                self._socket = sock
            if self._stopped:
                raise Stopped("stopped")

    def detach(self, sock: socket.socket) -> None:
        """To be called before *sock* is closed or lent to another call."""
        with self._lock:
            if self._socket is sock:
                self._socket = None

    def wait(self, event: threading.Event) -> None:
        """Until *event* is set. Raises Stopped or TimedOut."""
        with self._woken_by_stop(event.set):
            event.wait(self.remaining_s())
        if self._stopped or not event.is_set():
            self.check()

    @contextlib.contextmanager
    def within(self, seconds: float, waits_for: str) -> Generator[None]:
        """A nearer deadline for a while."""
        before = self.deadline, self.waits_for
        if self.clock() + seconds < self.deadline:
            self.deadline, self.waits_for = self.clock() + seconds, waits_for
        try:
            yield
        finally:
            self.deadline, self.waits_for = before

    @contextlib.contextmanager
    def _woken_by_stop(self, wake: Callable[[], None]) -> Generator[None]:
        with self._lock:
            self._wake = wake
            if self._stopped:
                wake()
        try:
            yield
        finally:
            with self._lock:
                self._wake = None


def _shut_down(sock: socket.socket) -> None:
    """End both directions; a thread that waits in recv() returns. An SSLSocket's own shutdown()
    would take its TLS state away under the reader."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
