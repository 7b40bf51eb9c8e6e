"""HTTP for cloud providers: pooled connections, streams of bytes, no surprises.

No redirects (a key must not travel on), no cookies, no decompression (a compressed stream is held
back by its compressor), no proxy but the one given: HTTP_PROXY and its kin are ignored, since a
conversation must not go where nobody said it may. SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's
own and hold.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from spillover.cloud_fallback.http.connecting import Resolver
from spillover.cloud_fallback.http.errors import Cancelled, HttpError
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.http.fair_semaphore import FairSemaphore

if TYPE_CHECKING:
    import ssl

    from spillover.cloud_fallback.http.pool import Incoming, Pool

MAX_REQUESTS = 64
_WARM_TIMEOUT_S = 10.0


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
        self._places = FairSemaphore(max_requests)
        self._lock = threading.Lock()
        self._pools: dict[bool, Pool] = {}
        self._is_closed = False
        self._exchanges: set[Exchange] = set()
        self._warming: set[str] = set()

    def open(self, outgoing: Outgoing, exchange: Exchange) -> Incoming:
        """Send *outgoing* and wait for the response's head.

        A kept connection that turns out to be dead is replaced, as long as nothing was received
        on it. Raises NotReached, Broken, TimedOut or Cancelled.
        """
        self._places.acquire(exchange)
        with self._lock:
            self._exchanges.add(exchange)
        try:
            return self._pool(direct=outgoing.direct).send(outgoing, exchange, self._end)
        except BaseException:
            self._end(exchange)
            raise

    def _end(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)
        self._places.release()

    def warm(
        self, base_url: str, *, direct: bool = False, exchange: Exchange | None = None
    ) -> None:
        """Have a connection to *base_url* ready, TLS included; sends no request.

        Returns at once when one is ready or being opened. Raises NotReached, TimedOut or
        Cancelled.
        """
        parts = urlsplit(base_url)
        origin = f"{parts.scheme}://{parts.netloc}"
        exchange = exchange or Exchange(connect_timeout_s=_WARM_TIMEOUT_S)
        with self._lock:
            if origin in self._warming:
                return
            self._warming.add(origin)
            self._exchanges.add(exchange)
        try:
            self._pool(direct=direct).warm(base_url, exchange)
        finally:
            with self._lock:
                self._warming.discard(origin)
                self._exchanges.discard(exchange)

    def prepare(self) -> None:
        """Do what takes time before the first request, except for the network: nothing is sent.

        Wants a thread of its own. Never raises.
        """
        with contextlib.suppress(HttpError):
            self._pool(direct=self._proxy is None).prepare()

    def close(self) -> None:
        """Close all connections for good. Exchanges under way and later ones are cancelled."""
        with self._lock:
            self._is_closed = True
            pools, self._pools = self._pools, {}
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.cancel()
        for pool in pools.values():
            pool.close()

    def _pool(self, *, direct: bool) -> Pool:
        direct = direct or self._proxy is None
        with self._lock:
            if self._is_closed:
                raise Cancelled("the connections are closed")
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
