"""The sockets under httpcore2: bounded by their call's deadline, ended by its stop().

httpcore2 asks for bytes in the thread of the request, and passes only a timeout for single reads.
So the call that a thread works for is kept per thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Generator, Iterable
from typing import Any

import httpcore2

from spillover.cloud_fallback.http.call import Call
from spillover.cloud_fallback.http.connector import connect
from spillover.cloud_fallback.http.errors import Broken, NotReached, TimedOut
from spillover.cloud_fallback.http.parking import Parking, Place
from spillover.cloud_fallback.http.resolver import Resolver


class Network(httpcore2.NetworkBackend):
    """Opens connections, or hands out those that were opened ahead. *tls*: whom to trust; None:
    the system's authorities, which are read when they are first needed."""

    def __init__(self, resolver: Resolver, tls: ssl.SSLContext | None = None) -> None:
        self.parking: Parking[Stream] = Parking(lambda stream: stream.is_quiet)
        self._resolver = resolver
        self._tls = tls
        self._local = threading.local()
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()

    @property
    def call(self) -> Call:
        """The call that this thread works for; without one, a call that is over at once."""
        call: Call = getattr(self._local, "call", None) or Call(deadline=0)
        return call

    @contextlib.contextmanager
    def working_for(self, call: Call) -> Generator[None]:
        """What this thread does is bounded by *call*."""
        self._local.call = call
        try:
            yield
        finally:
            self._local.call = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> Stream:
        return self.parking.take((host, port)) or self.open(host, port)

    def tls(self) -> ssl.SSLContext:
        """Whom to trust. Reading the system's authorities takes some 50 ms. Raises NotReached."""
        with self._lock:
            if self._tls is None:
                try:
                    self._tls = httpcore2.default_ssl_context()
                except OSError as error:  # SSL_CERT_FILE names none, or no certificates
                    raise NotReached("the certificates to trust cannot be read") from error
            self._tls.set_alpn_protocols(["http/1.1"])
            return self._tls

    def park(self, host: str, port: int, *, secure: bool) -> None:
        """Open a connection ahead of its first request. Raises as open() does."""
        stream = self.open(host, port)
        if secure:
            stream.start_tls(None, host)
        stream.n_calls = 1
        self.parking.park((host, port), stream)

    def open(self, host: str, port: int) -> Stream:
        """A new connection. Raises NotReached, TimedOut or Stopped."""
        call = self.call
        with _connecting(call, host):
            addresses = self._resolver.resolve(host, port, call)
            stream = Stream(self, connect(addresses, call), (host, port))
        with self._lock:
            self._streams.add(stream)
        return stream

    def has_idle(self, place: Place, longest_s: float) -> bool:
        """Whether a connection to *place* was kept alive, for less than *longest_s*."""
        with self._lock:
            streams = list(self._streams)
        return any(s.place == place and s.is_idle(longest_s) for s in streams)


class Stream(httpcore2.NetworkStream):
    """A connection, with TLS or without."""

    def __init__(self, network: Network, sock: socket.socket, place: Place) -> None:
        self._network = network
        self._socket = sock
        self.place = place
        self.n_calls = 0
        """Calls that have used it; the one that opened it ahead counts."""
        self._call: Call | None = None
        self._idle_since: float | None = None

    def start_tls(
        self,
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """By the network's own trust, whatever *ssl_context* is."""
        if isinstance(self._socket, ssl.SSLSocket):
            return self
        call = self._network.call
        with _connecting(call, self.place[0]):
            try:
                secured = self._network.tls().wrap_socket(
                    self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
                )
                self._socket = secured
                call.attach(secured)
                secured.settimeout(call.remaining_s())
                secured.do_handshake()
            except (OSError, ValueError) as error:
                self.close()
                call.check()
                raise NotReached(_tls_reason(error, self.place[0])) from error
            except BaseException:
                self.close()
                raise
            call.detach(secured)
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        call = self._network.call
        self._join(call)
        try:
            self._socket.settimeout(call.remaining_s())
            data = self._socket.recv(max_bytes)
        except TimeoutError:
            raise TimedOut(call.waits_for) from None
        except OSError as error:
            call.check()
            raise Broken(f"the connection broke: {_words(error)}") from error
        if not data:
            call.check()
        call.n_received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call = self._network.call
        self._join(call)
        try:
            self._socket.settimeout(call.remaining_s())
            self._socket.sendall(buffer)
            call.n_sent += len(buffer)
        except TimeoutError:
            raise TimedOut(call.waits_for) from None
        except OSError as error:
            call.check()
            # httpcore2 goes on to read then: a server may answer before it has read everything.
            raise httpcore2.WriteError(str(error)) from error

    def _join(self, call: Call) -> None:
        """stop() of *call* ends this connection from now on."""
        if self._call is not call:
            self._call = call
            self.n_calls += 1
            self._idle_since = None
            call.was_kept_alive = self.n_calls > 1
        call.attach(self._socket)

    def leave(self, call: Call) -> None:
        """*call* is over; its stop() must not harm the next one."""
        call.detach(self._socket)
        self._call = None
        self._idle_since = time.monotonic()

    def is_idle(self, longest_s: float) -> bool:
        """Whether it waits for its next call, for less than *longest_s*."""
        since = self._idle_since
        is_fresh = since is not None and time.monotonic() - since < longest_s
        return is_fresh and not self._is_readable()

    def close(self) -> None:
        if self._call is not None:
            self._call.detach(self._socket)
        self._idle_since = None
        self._socket.close()

    @property
    def is_quiet(self) -> bool:
        """Whether a connection that nobody else uses lives and has nothing to say.

        Reading takes in what TLS itself has to say after a handshake.
        """
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
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


@contextlib.contextmanager
def _connecting(call: Call, host: str) -> Generator[None]:
    """Bounded by the call's time for connecting; running out of it is NotReached."""
    began = call.clock()
    try:
        with call.within(call.connect_timeout_s, f"a connection to {host}"):
            yield
    except TimedOut as error:
        seconds = call.clock() - began
        raise NotReached(f"no connection to {host} within {seconds:.1f} s") from error


def _tls_reason(error: Exception, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not trusted: {error.verify_message}"
    return f"no TLS connection with {host}: {_words(error)}"


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
