"""Resolves names within a time limit: the system's own resolver may take minutes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

from spillover.cloud_fallback.http.errors import NotReached
from spillover.cloud_fallback.http.exchange import Exchange

Address: TypeAlias = tuple[socket.AddressFamily, tuple[str, int]]
"""A family and what connect() takes; for IPv6 with two more numbers."""
Lookup: TypeAlias = Callable[[str, int], list[Address]]


def look_up(host: str, port: int) -> list[Address]:
    """All addresses of *host*. May take minutes. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # only AF_INET and AF_INET6 come


class Resolver:
    """One look-up per name at a time, whoever asks, in a thread that nobody has to wait for."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, int], Future[list[Address]]] = {}

    def resolve(self, host: str, port: int, exchange: Exchange) -> list[Address]:
        """The addresses of *host*. Raises NotReached, TimedOut or Cancelled."""
        if literal := _literal(host, port):
            return [literal]
        asked = self._ask(host, port)
        known = threading.Event()
        asked.add_done_callback(lambda _: known.set())
        exchange.wait(known)
        try:
            return asked.result()
        except (OSError, UnicodeError) as error:
            raise NotReached(f"the name {host} cannot be resolved") from error

    def _ask(self, host: str, port: int) -> Future[list[Address]]:
        with self._lock:
            asked = self._pending.get((host, port))
            if asked is None:
                asked = Future()
                threading.Thread(
                    target=self._answer, args=(host, port, asked), name="resolver", daemon=True
                ).start()
                self._pending[host, port] = asked
        return asked

    def _answer(self, host: str, port: int, asked: Future[list[Address]]) -> None:
        found: list[Address] | Exception
        try:
            found = self._lookup(host, port)
        except Exception as error:
            found = error
        with self._lock:
            del self._pending[host, port]
        if isinstance(found, Exception):
            asked.set_exception(found)
        else:
            asked.set_result(found)


def _literal(host: str, port: int) -> Address | None:
    """The address that *host* is itself, if it is one."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return family, (host, port)
    return None
