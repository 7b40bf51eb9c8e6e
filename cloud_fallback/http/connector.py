"""Opens TCP connections: the addresses of a host race, a little apart (RFC 8305)."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import sys
from collections.abc import Iterable, Sequence

from spillover.cloud_fallback.http.errors import NotReached
from spillover.cloud_fallback.http.exchange import Exchange
from spillover.cloud_fallback.http.resolver import Address

STAGGER_S = 0.25
"""The head start of an address before the next; RFC 8305, section 5."""

_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK)
_LIVENESS = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_USER_TIMEOUT", 15_000))
"""Linux: a peer that acknowledges nothing for 15 s is given up, even in mid-stream. Seconds, and
milliseconds for the last."""


def connect(addresses: Sequence[Address], exchange: Exchange) -> socket.socket:
    """A connection to the first of *addresses* that answers.

    Raises NotReached, TimedOut or Cancelled.
    """

    def wake() -> None:
        with contextlib.suppress(OSError):
            waker.shutdown(socket.SHUT_RDWR)  # which the selector sees at the other end

    try:
        woken, waker = socket.socketpair()
        race = _Race(_alternating(addresses))
    except OSError as error:  # too many open files
        raise NotReached(f"no connection: {error.strerror}") from error
    try:
        exchange.attach(wake)
        race.selector.register(woken, selectors.EVENT_READ)
        return race.run(exchange)
    finally:
        exchange.detach(wake)
        race.close()
        woken.close()
        waker.close()


class _Race:
    """Connections under way to several addresses; the first to come about is kept."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self.selector = selectors.DefaultSelector()
        self._left = list(addresses)
        self._running: list[socket.socket] = []
        self._failure: OSError | None = None

    def run(self, exchange: Exchange) -> socket.socket:
        next_at = exchange.clock()
        while True:
            if self._left and (exchange.clock() >= next_at or not self._running):
                self._start(*self._left.pop(0))
                next_at = exchange.clock() + STAGGER_S
            if not self._running and not self._left:
                raise NotReached(_reason(self._failure))
            if self._running and (winner := self._wait(exchange, next_at)):
                return winner

    def _wait(self, exchange: Exchange, next_at: float) -> socket.socket | None:
        timeout = exchange.remaining_s()
        if self._left:
            pause = max(next_at - exchange.clock(), 0.0)
            timeout = pause if timeout is None else min(timeout, pause)
        for key, _ in self.selector.select(timeout):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock not in self._running:
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
        if code not in (0, *_PROGRESS):
            self._failure = OSError(code, os.strerror(code))
            sock.close()
            return
        self._running.append(sock)
        self.selector.register(sock, selectors.EVENT_WRITE)

    def _succeeded(self, sock: socket.socket) -> bool:
        """Takes *sock* out of the race, and closes it if it failed."""
        self.selector.unregister(sock)
        self._running.remove(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failure = OSError(code, os.strerror(code))
            sock.close()
            return False
        _set_options(sock)
        return True

    def close(self) -> None:
        """Give the losers up."""
        self.selector.close()
        for sock in self._running:
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


def _reason(failure: OSError | None) -> str:
    if failure is None:
        return "the name has no address"
    if failure.errno == errno.ECONNREFUSED:
        return "the connection was refused: nothing listens there"
    if failure.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return "there is no route: the network is down"
    return f"no connection: {failure.strerror}"
