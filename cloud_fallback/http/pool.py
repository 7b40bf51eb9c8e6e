"""httpcore2's connection pool on our sockets. Imported when the first request is sent."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable, Generator, Iterator
from urllib.parse import unquote, urlsplit

import httpcore2

from spillover.cloud_fallback.http.connecting import Resolver
from spillover.cloud_fallback.http.errors import Broken, NotReached, TimedOut
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.http.network import LONGEST_IDLE_S, Network, Stream

MAX_IDLE = 16
MAX_ERROR_BYTES = 64 * 1024

_PORTS = {b"http": 80, b"https": 443}


class Pool:
    """Connections to all providers, or to a proxy."""

    def __init__(
        self,
        *,
        proxy: str | None,
        tls: ssl.SSLContext | None,
        max_connections: int,
        resolver: Resolver,
    ) -> None:
        # At its level DEBUG it logs the headers of responses, which may repeat a key.
        logging.getLogger("httpcore2").setLevel(logging.WARNING)
        self._network = Network(resolver, tls)
        self._proxy = proxy
        self._pool = httpcore2.ConnectionPool(
            # Trusts nobody: our network decides that, when it is first needed.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            proxy=_proxy(proxy) if proxy else None,
            max_connections=max_connections,
            max_keepalive_connections=MAX_IDLE,
            keepalive_expiry=LONGEST_IDLE_S,
            network_backend=self._network,
        )

    def send(
        self, outgoing: Outgoing, exchange: Exchange, on_close: Callable[[Exchange], None]
    ) -> Incoming:
        """The response to *outgoing*, as soon as its head has come; see Http.open()."""
        request = _request(outgoing)
        while True:
            exchange.n_received = exchange.n_sent = 0
            try:
                with self._network.working_for(exchange), _translated():
                    response = self._pool.handle_request(request)
                return Incoming(response, self._network, exchange, on_close)
            except Broken:
                if exchange.n_received or not exchange.was_kept_alive:
                    raise

    def warm(self, base_url: str, exchange: Exchange) -> None:
        """Open a connection for the first request to *base_url*, unless one is ready."""
        origin, first_hop = _url(base_url).origin, _url(self._proxy or base_url)
        if any(
            connection.can_handle_request(origin)
            and connection.is_idle()
            and not connection.has_expired()
            for connection in self._pool.connections
        ):
            return
        port = first_hop.port or _PORTS.get(first_hop.scheme, 0)
        with self._network.working_for(exchange):
            self._network.open_ahead(
                first_hop.host.decode(), port, secure=first_hop.scheme == b"https"
            )

    def prepare(self) -> None:
        """Read the authorities to trust."""
        self._network.tls()

    def close(self) -> None:
        self._network.close()
        self._pool.close()


class Incoming:
    """A response whose body is still coming. Iterate, then close; both in one thread."""

    def __init__(
        self,
        response: httpcore2.Response,
        network: Network,
        exchange: Exchange,
        on_close: Callable[[Exchange], None],
    ) -> None:
        self._response = response
        self._network = network
        self._exchange = exchange
        self._on_close = on_close
        self._chunks = response.iter_stream()
        self._is_closed = False
        self.status = response.status
        self.headers = _headers(response.headers)
        """Names in lower case."""

    def __iter__(self) -> Iterator[bytes]:
        """The body as it comes; a second iteration goes on where the first one stopped.

        Raises Broken, TimedOut or Cancelled.
        """
        while True:
            with self._network.working_for(self._exchange), _translated():
                chunk = next(self._chunks, None)
            if chunk is None:
                return
            yield chunk

    def read(self, most: int = MAX_ERROR_BYTES) -> bytes:
        """The body, or its first *most* bytes, or as much as came before it broke off.

        Raises Cancelled.
        """
        body = bytearray()
        with contextlib.suppress(Broken, TimedOut):  # half an error's text is better than none
            for chunk in self:
                body += chunk
                if len(body) >= most:
                    break
        return bytes(body[:most])

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self._is_closed:
            return
        self._is_closed = True
        stream = self._response.extensions["network_stream"]
        if isinstance(stream, Stream):
            stream.leave()
        self._response.close()
        self._on_close(self._exchange)


def _request(outgoing: Outgoing) -> httpcore2.Request:
    url = _url(outgoing.url)
    own = {
        "host": _host_header(url),
        "accept-encoding": "identity",
        "content-length": str(len(outgoing.body)),
    }
    return httpcore2.Request(
        outgoing.method,
        url,
        headers=[
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (own | outgoing.headers).items()
        ],
        content=outgoing.body,
    )


def _url(text: str) -> httpcore2.URL:
    try:
        return httpcore2.URL(text)
    except ValueError as error:
        raise NotReached(f"{text} is not a web address") from error


def _proxy(url: str) -> httpcore2.Proxy:
    parts = urlsplit(url)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return httpcore2.Proxy(address, auth=auth)


def _host_header(url: httpcore2.URL) -> str:
    host = url.host.decode()
    host = f"[{host}]" if ":" in host else host
    return host if url.port in (None, _PORTS.get(url.scheme)) else f"{host}:{url.port}"


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Names in lower case; of several headers of one name, the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """httpcore2's errors as ours."""
    try:
        yield
    except httpcore2.RemoteProtocolError as error:
        raise Broken(_broken(str(error))) from error
    except httpcore2.LocalProtocolError:
        # Without its text and its cause, which quote the header: it may be the one with the key.
        raise NotReached("the request has a header that HTTP does not allow") from None
    except httpcore2.ProxyError as error:
        raise NotReached("the proxy refused the request") from error
    except (httpcore2.ProtocolError, httpcore2.NetworkError) as error:
        raise Broken(f"the connection broke: {type(error).__name__}") from error
    except httpcore2.UnsupportedProtocol as error:
        raise NotReached(str(error)) from error


def _broken(text: str) -> str:
    """What httpcore2 says, without what it quotes of the peer's bytes."""
    if "without sending a response" in text:
        return "the connection was closed before the answer"
    if "without sending complete" in text:
        return "the connection was closed during the answer"
    return "the response is not HTTP"
