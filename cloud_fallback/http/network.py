"""The sockets under httpcore2: bounded by their exchange's deadline, ended by its cancel().

httpcore2 asks for bytes in the thread of the request, and passes only a timeout for single reads.
So the exchange that a thread works for is kept per thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeAlias

import httpcore2

from spillover.cloud_fallback.http.connecting import Address, Resolver, connect
from spillover.cloud_fallback.http.errors import Broken, NotReached, TimedOut
from spillover.cloud_fallback.http.exchange import Exchange
from spillover.cloud_fallback.http.near import is_near

LONGEST_IDLE_S = 55.0
"""Most servers and balancers close an idle connection after 60 s or more."""

Place: TypeAlias = tuple[str, int]
"""Host and port."""


class Network(httpcore2.NetworkBackend):
    """Opens connections, or returns those that were opened ahead. *tls*: whom to trust; None: the
    system's authorities, which are read when they are first needed."""

    def __init__(self, resolver: Resolver, tls: ssl.SSLContext | None = None) -> None:
        self._resolver = resolver
        self._tls = tls
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened_ahead: dict[Place, Stream] = {}

    @property
    def exchange(self) -> Exchange:
        """The one that this thread works for; without one, an exchange that is over at once."""
        exchange: Exchange = getattr(self._local, "exchange", None) or Exchange(deadline=0)
        return exchange

    @contextlib.contextmanager
    def working_for(self, exchange: Exchange) -> Generator[None]:
        """Bound what this thread does inside the block by *exchange*."""
        self._local.exchange = exchange
        try:
            yield
        finally:
            self._local.exchange = None

    def tls(self) -> ssl.SSLContext:
        """Whom to trust. Reading the system's authorities takes some 50 ms. Raises NotReached."""
        with self._lock:
            if self._tls is None:
                try:
                    self._tls = httpcore2.default_ssl_context()
                except OSError as error:  # SSL_CERT_FILE names no file, or one without certificates
                    raise NotReached("the trusted certificates cannot be read") from error
            self._tls.set_alpn_protocols(["http/1.1"])
            return self._tls

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Raises NotReached, TimedOut or Cancelled."""
        return self._take((host, port)) or self._open(host, port)

    def open_ahead(self, host: str, port: int, *, secure: bool) -> None:
        """Have a connection ready before its first request, TLS included.

        Raises as connect_tcp() does.
        """
        stream = self.connect_tcp(host, port)  # the one that is ready, if there is one
        if secure:
            stream.start_tls(None, host)
        stream.n_exchanges = 1
        with self._lock:
            other = self._opened_ahead.get(stream.place)
            self._opened_ahead[stream.place] = stream
        if other is not None:
            other.close()

    def close(self) -> None:
        """Close what was opened ahead."""
        with self._lock:
            streams, self._opened_ahead = self._opened_ahead, {}
        for stream in streams.values():
            stream.close()

    def _open(self, host: str, port: int) -> Stream:
        exchange = self.exchange
        with _connecting(exchange, host):
            addresses = self._resolver.resolve(host, port, exchange)
            if exchange.near_only:
                addresses = _near(host, addresses)
            return Stream(self, connect(addresses, exchange), (host, port))

    def _take(self, place: Place) -> Stream | None:
        """The connection that was opened ahead to *place*, if it lives."""
        with self._lock:
            stream = self._opened_ahead.pop(place, None)
        if stream is None or stream.is_fresh:
            return stream
        stream.close()
        return None


class Stream(httpcore2.NetworkStream):
    """A connection, with TLS or without."""

    def __init__(self, network: Network, sock: socket.socket, place: Place) -> None:
        self._network = network
        self._socket = sock
        self.place = place
        self.n_exchanges = 0
        """Exchanges that used it; opening it ahead counts as one."""
        self._exchange: Exchange | None = None
        self._opened_at = time.monotonic()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """By the network's own trust, whatever *ssl_context* is."""
        if isinstance(self._socket, ssl.SSLSocket):
            return self
        exchange = self._network.exchange
        with _connecting(exchange, self.place[0]):
            try:
                secured = self._network.tls().wrap_socket(
                    self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
                )
                self._socket = secured
                exchange.attach(self._shut_down)
                secured.settimeout(exchange.remaining_s())
                secured.do_handshake()
            except (OSError, ValueError) as error:
                self.close()
                exchange.check()
                raise NotReached(_tls_reason(error, self.place[0])) from error
            except BaseException:
                self.close()
                raise
            finally:
                exchange.detach(self._shut_down)
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = self._join()
        try:
            self._socket.settimeout(exchange.remaining_s())
            data = self._socket.recv(max_bytes)
        except TimeoutError:
            raise exchange.timed_out() from None
        except OSError as error:
            exchange.check()
            raise Broken(f"the connection broke: {_text(error)}") from error
        if not data:
            exchange.check()
        exchange.n_received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = self._join()
        try:
            self._socket.settimeout(exchange.remaining_s())
            self._socket.sendall(buffer)
            exchange.n_sent += len(buffer)
        except TimeoutError:
            raise exchange.timed_out() from None
        except OSError as error:
            exchange.check()
            # httpcore2 reads on then: a server may answer before it has read everything.
            raise httpcore2.WriteError(str(error)) from error

    def _join(self) -> Exchange:
        """The thread's exchange, whose cancel() ends this connection from now on."""
        exchange = self._network.exchange
        if self._exchange is not exchange:
            self._exchange = exchange
            self.n_exchanges += 1
            exchange.was_kept_alive = self.n_exchanges > 1
        exchange.attach(self._shut_down)
        return exchange

    def close(self) -> None:
        self.leave()
        self._socket.close()

    def leave(self) -> None:
        """Its exchange is over, and a late cancel() must not harm the next one."""
        if self._exchange is not None:
            self._exchange.detach(self._shut_down)
            self._exchange = None

    def _shut_down(self) -> None:
        """End both directions; a thread that waits in recv() returns. An SSLSocket's own
        shutdown() would take its TLS state away under the reader."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @property
    def is_fresh(self) -> bool:
        """Whether a connection that was opened ahead still lives and has nothing to say.

        Reading takes in what TLS itself has to say after a handshake.
        """
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return time.monotonic() - self._opened_at < LONGEST_IDLE_S
        except OSError:
            return False
        return False

    def _is_readable(self) -> bool:
        """Between requests only the end of the connection can be read. Takes nothing away."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._is_readable()
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return None


def _near(host: str, addresses: Sequence[Address]) -> list[Address]:
    """Those of *addresses* that are near. Raises NotReached if none is."""
    near = [address for address in addresses if is_near(address[1][0])]
    if addresses and not near:
        raise NotReached(
            f"the name {host} leads to a machine on the internet, where nothing is sent "
            "unencrypted: use https, or set is_local_network = true"
        )
    return near


@contextlib.contextmanager
def _connecting(exchange: Exchange, host: str) -> Generator[None]:
    """Bounded by the exchange's time for connecting; running out of it is NotReached."""
    began = exchange.clock()
    try:
        with exchange.within(exchange.connect_timeout_s, f"a connection to {host}"):
            yield
    except TimedOut as error:
        seconds = exchange.clock() - began
        raise NotReached(f"no connection to {host} within {seconds:.1f} s") from error


def _tls_reason(error: Exception, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not trusted: {error.verify_message}"
    return f"no TLS connection with {host}: {_text(error)}"


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
