"""uvicorn's HTTP protocol with the deadlines and socket options that it lacks."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from spillover.edge_server.web.connections import Connections
from spillover.edge_server.web.environ import path_in
from spillover.edge_server.wire.endpoints import error_body_of
from spillover.edge_server.wire.errors import WireError

USER_TIMEOUT_MS = 15_000
SEND_BUFFER_BYTES = 128 * 1024

_TLS_HANDSHAKE = b"\x16\x03"
_USE_HTTP = "a client speaks TLS, but this endpoint does not: its address begins with http://"

MAX_TARGET_BYTES = 512
"""How far into a head its path is looked for, if the head cannot be read."""
_TARGET = re.compile(rb"[A-Za-z]+ +([^\s?]+)[\s?]")

FIRST_PROBE_S, LONGEST_PROBE_S = 0.05, 16.0
"""Pauses between interim responses to a client that sends nothing more; each doubles the last."""

IDLE_TIMEOUT_S = 75
"""A kept connection is closed after this long without a request: later than most clients close it
themselves, since a request that crosses the closing is lost."""

_log = logging.getLogger(__name__)


class HardenedProtocol(H11Protocol):
    """Cuts connections whose request head comes too slowly (slowloris), and those that do not take
    what was written to them. A stream finds its own among *connections*, and writes to it
    directly."""

    connections_of_all: Connections
    head_timeout_s: float
    """Both are set by a subclass for each server."""
    _timer: asyncio.TimerHandle | None = None
    _is_in_head = True  # a new connection owes us a request
    _begun_head = b""
    """The first bytes of the head that comes, or that came last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn names it so, too
        super().connection_made(transport)
        self.connections_of_all.opened(self, transport.get_extra_info("peername"))
        _set_options(transport.get_extra_info("socket"))
        self._watch()

    def data_received(self, data: bytes) -> None:
        is_head = self.cycle is None or self.cycle.response_complete
        if is_head and len(self._begun_head) < MAX_TARGET_BYTES:
            self._begun_head += data[:MAX_TARGET_BYTES]
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.connections_of_all.begun(self)
            self._is_in_head = False
            self._stop_timer()
        elif not self._is_in_head:
            self._is_in_head = True
            self._watch()

    def on_response_complete(self) -> None:
        self._begun_head = self.conn.trailing_data[0][:MAX_TARGET_BYTES]
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self.connections_of_all.served(self)
            self._is_in_head = bool(self.conn.trailing_data[0])
            self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn says None, asyncio a bool
        """The client sends nothing more. It may still wait for the answer to a whole request, or be
        gone: then what is written to it, be it an interim response, breaks the connection."""
        cycle = self.cycle
        waits = cycle is not None and not (cycle.response_complete or cycle.more_body)
        if not waits or self.scope["http_version"] != "1.1":
            return False
        cycle.keep_alive = False
        self._probe(FIRST_PROBE_S)
        return True

    def _probe(self, pause_s: float) -> None:
        """Find out whether the client is gone, until it gets its response. The first bytes that a
        client gets after it has closed its socket make it refuse the second ones."""
        if self.cycle.response_started or self.transport.is_closing():
            return
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        next_s = min(2 * pause_s, LONGEST_PROBE_S)
        self._timer = self.loop.call_later(pause_s, self._probe, next_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.connections_of_all.closed(self, self.transport.get_extra_info("peername"))
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with an error, unless another answer has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = self._fault()
            body = error_body_of(self._asked_path())(error)
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=error.status, headers=headers)
            self.transport.write(self.conn.send(response))
            self.transport.write(self.conn.send(h11.Data(data=body)))
        self.transport.close()

    def _fault(self) -> WireError:
        """What is wrong with what cannot be read as HTTP."""
        most = self.config.h11_max_incomplete_event_size or 0
        unread = self.conn.trailing_data[0]
        if unread.startswith(_TLS_HANDSHAKE):
            _log.warning("%s", _USE_HTTP)
            return WireError(400, _USE_HTTP)
        if len(unread) > most > 0 and unread.startswith(self._begun_head):
            return WireError(431, f"the request's head has more than {most} bytes: shorten it")
        return WireError(400, "this is not a valid HTTP request")

    def _asked_path(self) -> str:
        """The path of a request that cannot be read, as far as it is known."""
        found = _TARGET.match(self._begun_head)
        return path_in(found[1]) if found else ""

    def _unsupported_upgrade_warning(self) -> None:
        """No warning: we offer no upgrades, and serve the request as it is."""

    def write_chunk(self, data: bytes) -> bool:
        """Write a part of the running response in the chunked coding; False when the client takes
        no more for now or is gone: then only send() will do.

        The same bytes as h11's, without its events and checks, which cost more than the write.
        """
        if self.cycle.disconnected or self.flow.write_paused:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def close_idle(self) -> None:
        """Close the connection, on which nothing is asked and nothing is being sent."""
        self.timeout_keep_alive_handler()

    def abort(self) -> None:
        """Cut the connection and drop what has not been sent."""
        self.transport.abort()

    def _watch(self, n_unsent: int | None = None) -> None:
        """Cut the connection unless the head that has begun is complete in time. A client that
        still takes what was written before (*n_unsent* bytes were left the last time) gets more
        time; one that takes none of it is cut off, too."""
        self._stop_timer()

        def look() -> None:
            n_left = self.transport.get_write_buffer_size()
            if 0 < n_left < n_before:
                self._watch(n_left)
            elif n_left or self._is_in_head:
                self.transport.abort()

        n_before = self.transport.get_write_buffer_size() + 1 if n_unsent is None else n_unsent
        self._timer = self.loop.call_later(self.head_timeout_s, look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _set_options(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: notice a peer that vanished
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
