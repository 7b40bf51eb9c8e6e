"""httpcore2's connection pool on our sockets. Imported when the first request is sent."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import httpcore2

from spillover.cloud_fallback.http.call import Call
from spillover.cloud_fallback.http.errors import Broken, NotReached
from spillover.cloud_fallback.http.network import Network, Stream
from spillover.cloud_fallback.http.resolver import Resolver

if TYPE_CHECKING:
    from spillover.cloud_fallback.http.client import Outgoing

KEEP_ALIVE_S = 55.0
"""Most servers and balancers close an idle connection after 60 s or more."""
MAX_IDLE = 16

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
        # At its level DEBUG it writes down the headers of responses, which may repeat a key.
        logging.getLogger("httpcore2").setLevel(logging.WARNING)
        self._network = Network(resolver, tls)
        self._proxy = proxy
        self._pool = httpcore2.ConnectionPool(
            # Trusts nobody: our network decides that, when it is first needed.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            proxy=_proxy(proxy) if proxy else None,
            max_connections=max_connections,
            max_keepalive_connections=MAX_IDLE,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=self._network,
        )

    def send(self, outgoing: Outgoing, call: Call) -> Response:
        """The head of the response to *outgoing*."""
        url = _url(outgoing.url)
        with self._network.working_for(call), _translated():
            own = {
                "host": _host_header(url),
                "accept-encoding": "identity",
                "content-length": str(len(outgoing.body)),
            }
            request = httpcore2.Request(
                outgoing.method,
                url,
                headers=[
                    (name.encode("latin-1"), value.encode("latin-1"))
                    for name, value in (own | outgoing.headers).items()
                ],
                content=outgoing.body,
            )
            return Response(self._pool.handle_request(request), self._network)

    def warm(self, base_url: str, call: Call) -> None:
        """Park a connection for the first request to *base_url*, unless one is idle."""
        url = _url(self._proxy or base_url)
        port = url.port or _PORTS.get(url.scheme, 0)
        host = url.host.decode()
        place = (host, port)
        if self._network.has_idle(place, KEEP_ALIVE_S) or self._network.parking.has(place):
            return
        with self._network.working_for(call):
            self._network.park(host, port, secure=url.scheme == b"https")

    def prepare(self) -> None:
        """Read the authorities to trust."""
        self._network.tls()

    def close(self) -> None:
        self._network.parking.close()
        self._pool.close()


class Response:
    """httpcore2's response; header names in lower case."""

    def __init__(self, response: httpcore2.Response, network: Network) -> None:
        self._response = response
        self._network = network
        self._chunks = response.iter_stream()
        self.status = response.status
        self.headers = _headers(response.headers)

    def chunks(self, call: Call) -> Iterator[bytes]:
        """The body as it comes; a second iteration goes on where the first one stopped."""
        while True:
            with self._network.working_for(call), _translated():
                chunk = next(self._chunks, None)
            if chunk is None:
                return
            yield chunk

    def close(self, call: Call) -> None:
        stream = self._response.extensions["network_stream"]
        if isinstance(stream, Stream):
            stream.leave(call)
        self._response.close()


def _url(text: str) -> httpcore2.URL:
    try:
        return httpcore2.URL(text)
    except ValueError as error:
        raise NotReached(f"{text} is no address") from error


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
    """The last of headers of one name."""
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
        raise NotReached("the proxy does not let the request through") from error
    except (httpcore2.ProtocolError, httpcore2.NetworkError) as error:
        raise Broken(f"the connection broke: {type(error).__name__}") from error
    except httpcore2.UnsupportedProtocol as error:
        raise NotReached(str(error)) from error


def _broken(told: str) -> str:
    """What httpcore2 says, without what it quotes of the peer's bytes."""
    if "without sending a response" in told:
        return "the connection was closed before the answer"
    if "without sending complete" in told:
        return "the connection was closed within the answer"
    return "what came is not HTTP"
