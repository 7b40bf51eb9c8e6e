"""From a name to a connected socket, within the time that an exchange has.

The system's resolver may take minutes, so it runs in threads that nobody has to wait for. The
addresses of a host race, a little apart (RFC 8305).
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

from spillover.cloud_fallback.http.errors import NotReached
from spillover.cloud_fallback.http.exchange import Exchange

Address: TypeAlias = tuple[socket.AddressFamily, tuple[str, int]]
"""A family and what connect() takes; for IPv6 with two more numbers."""
Lookup: TypeAlias = Callable[[str, int], list[Address]]

STAGGER_S = 0.25
"""The head start of an address before the next; RFC 8305, section 5."""

_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
_LIVENESS = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_USER_TIMEOUT", 15_000))
"""Linux: a peer that acknowledges nothing for 15 s is given up, even in mid-stream. Seconds, and
milliseconds for the last."""


def look_up(host: str, port: int) -> list[Address]:
    """All addresses of *host*. May take minutes. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # only AF_INET and AF_INET6 come


class Resolver:
    """One look-up per name at a time, however many ask."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, int], Future[list[Address]]] = {}

    def resolve(self, host: str, port: int, exchange: Exchange) -> list[Address]:
        """The addresses of *host*. Raises NotReached, TimedOut or Cancelled."""
        if literal := _literal(host, port):
            return [literal]
        pending = self._ask(host, port)
        known = threading.Event()
        pending.add_done_callback(lambda _: known.set())
        exchange.wait(known)
        try:
            return pending.result()
        except (OSError, UnicodeError) as error:
            raise NotReached(f"the name {host} cannot be resolved") from error

    def _ask(self, host: str, port: int) -> Future[list[Address]]:
        with self._lock:
            pending = self._pending.get((host, port))
            if pending is None:
                pending = Future()
                threading.Thread(
                    target=self._run, args=(host, port, pending), name="resolver", daemon=True
                ).start()
                self._pending[host, port] = pending
        return pending

    def _run(self, host: str, port: int, pending: Future[list[Address]]) -> None:
        found: list[Address] | Exception
        try:
            found = self._lookup(host, port)
        except Exception as error:
            found = error
        with self._lock:
            del self._pending[host, port]
        if isinstance(found, Exception):
            pending.set_exception(found)
        else:
            pending.set_result(found)


def connect(addresses: Sequence[Address], exchange: Exchange) -> socket.socket:
    """A connection to the first of *addresses* that answers.

    Raises NotReached, TimedOut or Cancelled.
    """
    try:
        race = _Race(addresses)
    except OSError as error:  # too many open files
        raise NotReached(f"no connection: {error.strerror}") from error
    try:
        exchange.attach(race.wake)
        return race.run(exchange)
    finally:
        exchange.detach(race.wake)
        race.close()


class _Race:
    """Connections under way to several addresses; the first to be made is kept."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._waiting = _alternating(addresses)
        self._running: list[socket.socket] = []
        self._failure: OSError | None = None
        self._woken, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the wait of run(); from any thread."""
        with contextlib.suppress(OSError):
            self._waker.shutdown(socket.SHUT_RDWR)

    def run(self, exchange: Exchange) -> socket.socket:
        """The winner. Raises NotReached, TimedOut or Cancelled."""
        next_at = exchange.clock()
        while True:
            if self._waiting and (exchange.clock() >= next_at or not self._running):
                self._start(*self._waiting.pop(0))
                next_at = exchange.clock() + STAGGER_S
            if not self._running and not self._waiting:
                raise NotReached(_reason(self._failure))
            if self._running and (winner := self._wait(exchange, next_at)):
                return winner

    def close(self) -> None:
        """Give up all but the winner."""
        self._selector.close()
        for sock in (*self._running, self._woken, self._waker):
            sock.close()

    def _wait(self, exchange: Exchange, next_at: float) -> socket.socket | None:
        timeout = exchange.remaining_s()
        if self._waiting:
            pause = max(next_at - exchange.clock(), 0.0)
            timeout = pause if timeout is None else min(timeout, pause)
        for key, _ in self._selector.select(timeout):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is self._woken:
                exchange.check()
            elif self._succeeded(sock):
                return sock
        return None

    def _start(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._failure = error
            return
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in _IN_PROGRESS:
            self._failed(sock, code)
            return
        self._running.append(sock)
        self._selector.register(sock, selectors.EVENT_WRITE)

    def _succeeded(self, sock: socket.socket) -> bool:
        """Take *sock* out of the race."""
        self._selector.unregister(sock)
        self._running.remove(sock)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._failed(sock, code)
            return False
        _set_options(sock)
        return True

    def _failed(self, sock: socket.socket, code: int) -> None:
        self._failure = OSError(code, os.strerror(code))
        sock.close()


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for name, value in _LIVENESS:
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """The families in turn, beginning with that of the first."""
    families = list(dict.fromkeys(family for family, _ in addresses))
    queues = [[a for a in addresses if a[0] == family] for family in families]
    longest = max(map(len, queues), default=0)
    return [queue[n] for n in range(longest) for queue in queues if n < len(queue)]


def _literal(host: str, port: int) -> Address | None:
    """The address that *host* is itself, if it is one."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return family, (host, port)
    return None


def _reason(failure: OSError | None) -> str:
    if failure is None:
        return "the name has no address"
    if failure.errno == errno.ECONNREFUSED:
        return "the connection was refused: nothing listens there"
    if failure.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return "there is no route: the network is down"
    return f"no connection: {failure.strerror}"
