"""All connections of a server: those without a request make room for those that have one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

N_SPARE = 64
"""Connections beyond the limit that may be there before their first request."""


class Connected(Protocol):
    """A connection as this module sees it."""

    def close_idle(self) -> None:
        """Close it: nothing is asked and nothing is being sent."""
        ...

    def abort(self) -> None: ...


class Connections:
    """At most *most* requests run at a time. When there are more connections, kept ones without a
    request are closed, oldest first; so is the oldest new one when there are N_SPARE more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_client: dict[tuple[Any, ...], Any] = {}
        self._new: dict[Connected, None] = {}
        self._idle: dict[Connected, None] = {}
        self._open: set[Connected] = set()

    @property
    def is_full(self) -> bool:
        """Whether more requests run than may."""
        return len(self._open) - len(self._new) - len(self._idle) > self._most

    def of(self, client: Iterable[Any] | None) -> Any:
        """The connection from the address *client*; None if there is none."""
        return self._by_client.get(tuple(client or ()))

    def opened(self, connection: Connected, peer: tuple[Any, ...] | None) -> None:
        if peer:
            self._by_client[peer[:2]] = connection
        self._open.add(connection)
        self._new[connection] = None
        while len(self._open) > self._most and self.close_oldest():
            pass
        if len(self._open) > self._most + N_SPARE and self._new:
            oldest = next(iter(self._new))
            self._forget(oldest)
            oldest.abort()

    def begun(self, connection: Connected) -> None:
        """It has a request."""
        self._new.pop(connection, None)
        self._idle.pop(connection, None)

    def served(self, connection: Connected) -> None:
        """Its request has its response."""
        self._idle[connection] = None

    def closed(self, connection: Connected, peer: tuple[Any, ...] | None) -> None:
        if peer:
            self._by_client.pop(peer[:2], None)
        self._forget(connection)

    def _forget(self, connection: Connected) -> None:
        self._open.discard(connection)
        self.begun(connection)

    def close_oldest(self) -> bool:
        """Close the connection that has been idle longest; False if there is none."""
        connection = next(iter(self._idle), None)
        if connection is None:
            return False
        self._forget(connection)
        connection.close_idle()
        return True
