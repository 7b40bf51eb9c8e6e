"""HTTP for cloud providers: pooled connections, streams of bytes, nothing behind one's back.

No redirects (a key must not travel on), no cookies, no decompression (a compressed stream is held
back by its compressor), no proxy but the one given: HTTP_PROXY and its kin are ignored, since a
conversation must not go where nobody said it may. SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's
own and hold.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from spillover.cloud_fallback.http.call import Call
from spillover.cloud_fallback.http.errors import Broken, HttpError, Stopped, TimedOut
from spillover.cloud_fallback.http.resolver import Resolver
from spillover.cloud_fallback.http.slots import Slots

if TYPE_CHECKING:
    import ssl

    from spillover.cloud_fallback.http.pool import Pool, Response

MAX_REQUESTS = 64
MAX_ERROR_BYTES = 64 * 1024
_WARM_TIMEOUT_S = 10.0


class Outgoing(Struct, frozen=True, kw_only=True):
    """A request with its whole address and its key."""

    url: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"
    direct: bool = False
    """Not through the proxy."""


class Incoming:
    """A response whose body is still coming. Iterate, then close; both in one thread."""

    def __init__(self, response: Response, call: Call, on_close: Callable[[Call], None]) -> None:
        self._response = response
        self._call = call
        self._on_close = on_close
        self._closed = False
        self.status = response.status
        self.headers = response.headers

    def __iter__(self) -> Iterator[bytes]:
        """The body as it comes. Raises Broken, TimedOut or Stopped."""
        return self._response.chunks(self._call)

    def read(self, most: int = MAX_ERROR_BYTES) -> bytes:
        """The body, or its first *most* bytes; what breaks off is given as far as it came.

        Raises Stopped.
        """
        body = bytearray()
        try:
            for chunk in self:
                body += chunk
                if len(body) >= most:
                    break
        except (Broken, TimedOut):
            pass  # half an error's text is better than none
        return bytes(body[:most])

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if not self._closed:
            self._closed = True
            self._response.close(self._call)
            self._on_close(self._call)


class Http:
    """Shared by all providers and threads. Nothing is imported or opened before it is used.

    *proxy*: "http://host:port", for all requests that are not *direct*. *tls*: whom to trust;
    None: the system's authorities.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_requests: int = MAX_REQUESTS,
        resolver: Resolver | None = None,
    ) -> None:
        self._proxy = proxy
        self._tls = tls
        self._max_requests = max_requests
        self._resolver = resolver or Resolver()
        self._slots = Slots(max_requests)
        self._lock = threading.Lock()
        self._pools: dict[bool, Pool] = {}
        self._closed = False
        self._calls: set[Call] = set()
        self._warming: set[str] = set()

    def open(self, request: Outgoing, call: Call) -> Incoming:
        """Send *request* and wait for the response's head.

        A connection that was kept alive and turns out to be dead is replaced in silence, as long
        as nothing was heard on it. Raises NotReached, Broken, TimedOut or Stopped.
        """
        self._slots.acquire(call)
        with self._lock:
            self._calls.add(call)
        try:
            while True:
                call.n_received = call.n_sent = 0
                try:
                    response = self._pool(direct=request.direct).send(request, call)
                    return Incoming(response, call, self._end)
                except Broken:
                    if call.n_received or not call.was_kept_alive:
                        raise
        except BaseException:
            self._end(call)
            raise

    def _end(self, call: Call) -> None:
        with self._lock:
            self._calls.discard(call)
        self._slots.release()

    def warm(self, base_url: str, *, direct: bool = False, call: Call | None = None) -> None:
        """Have a connection to *base_url* ready, TLS included; sends no request.

        Returns at once when one is ready or being opened. Raises NotReached, TimedOut or Stopped.
        """
        parts = urlsplit(base_url)
        origin = f"{parts.scheme}://{parts.netloc}"
        call = call or Call(connect_timeout_s=_WARM_TIMEOUT_S)
        with self._lock:
            if origin in self._warming:
                return
            self._warming.add(origin)
            self._calls.add(call)
        try:
            self._pool(direct=direct).warm(base_url, call)
        finally:
            with self._lock:
                self._warming.discard(origin)
                self._calls.discard(call)

    def prepare(self) -> None:
        """Do what takes time before the first request, but for the network: not a byte is sent.

        Wants a thread of its own. Never raises.
        """
        with contextlib.suppress(HttpError):
            self._pool(direct=self._proxy is None).prepare()

    def close(self) -> None:
        """Close all connections, for good; calls under way and later ones are stopped."""
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, {}
            calls = list(self._calls)
        for call in calls:
            call.stop()
        for pool in pools.values():
            pool.close()

    def _pool(self, *, direct: bool) -> Pool:
        direct = direct or self._proxy is None
        with self._lock:
            if self._closed:
                raise Stopped("the connections were closed")
            if direct not in self._pools:
                # Takes a third of a second, which only those pay who use a provider.
                from spillover.cloud_fallback.http.pool import Pool

                self._pools[direct] = Pool(
                    proxy=None if direct else self._proxy,
                    tls=self._tls,
                    max_connections=self._max_requests,
                    resolver=self._resolver,
                )
            return self._pools[direct]
