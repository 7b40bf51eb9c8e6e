"""Google's application default credentials, for Vertex AI.

google-auth finds them (it reads GOOGLE_APPLICATION_CREDENTIALS, gcloud's files and the metadata
server of Google's machines) and asks for tokens over our own connections.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Any

from msgspec import Struct

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.errors import Cancelled, HttpError
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.http.fair_semaphore import FairSemaphore
from spillover.cloud_fallback.providers.credentials.credentials import Credentials

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
MISSING = "Vertex AI's default credentials need google-auth: pip install 'spillover[vertex]'"
MAX_ANSWER_BYTES = 256 * 1024


class GoogleDefault(Credentials):
    """Adds a token, which is kept as long as it is valid."""

    def __init__(self, provider: str, http: Http) -> None:
        super().__init__(provider)
        self._http = http
        self._turn = FairSemaphore(1)
        self._found: Any = None

    @property
    def problem(self) -> str | None:
        return None if _is_installed("google.auth") else MISSING

    def headers(self, outgoing: Outgoing, exchange: Exchange) -> dict[str, str]:
        self.check()
        # Not before they are needed: these imports take a tenth of a second.
        library: Any = importlib.import_module("google.auth")
        failures: Any = importlib.import_module("google.auth.exceptions")
        transport = partial(self._fetch, exchange)
        headers: dict[str, str] = {}
        try:
            with self._turn.held_for(exchange):
                if self._found is None:
                    self._found, _ = library.default(scopes=[SCOPE], request=transport)
                self._found.before_request(transport, outgoing.method, outgoing.url, headers)
        except failures.GoogleAuthError as error:
            exchange.check()
            raise AuthFailed(self.provider, _advice(error)) from error
        return headers

    def _fetch(
        self,
        exchange: Exchange,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Response:
        """google.auth.transport.Request over our connections."""
        failures: Any = importlib.import_module("google.auth.exceptions")
        outgoing = Outgoing(
            url=url,
            method=method,
            headers={k.lower(): str(v) for k, v in (headers or {}).items()},
            body=body.encode() if isinstance(body, str) else body or b"",
            direct=url.startswith("http://"),  # the metadata server, on this very machine
        )
        try:
            with closing(self._http.open(outgoing, exchange)) as incoming:
                data = incoming.read(MAX_ANSWER_BYTES)
        except Cancelled:
            raise
        except HttpError as error:
            raise failures.TransportError(str(error)) from error
        return _Response(incoming.status, incoming.headers, data)


class _Response(Struct, frozen=True):
    """As google-auth wants it."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def _advice(error: Exception) -> str:
    return (
        f"Google did not return a token ({type(error).__name__}): run "
        "`gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
