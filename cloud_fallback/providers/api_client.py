"""Sends requests to the API of one provider, and learns what its model does not take."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from spillover.cloud_fallback.errors import NetworkFailed, ProviderError, ProviderRefused
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.errors import HttpError
from spillover.cloud_fallback.http.exchange import Clock, Exchange, Outgoing
from spillover.cloud_fallback.providers.companies import WireFormat
from spillover.cloud_fallback.providers.credentials.credentials import Credentials
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.dialects.encoding import HttpRequest
from spillover.cloud_fallback.providers.inquiry import Page, ServerFacts, inquire
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.request import GenerationRequest

if TYPE_CHECKING:  # httpcore2 is imported with the first request
    from spillover.cloud_fallback.http.pool import Incoming

MAX_REFUSED_FIELDS = 8
"""A provider that refuses more fields than this has another problem."""
FIND_SERVER_S = 2.0
"""Longest time for finding out which server it is."""
CONTACT_S = 10.0
_LISTS_MODELS: tuple[WireFormat, ...] = ("openai", "anthropic", "gemini")
"""The wire formats with a list of models below their root."""
_ERROR_BODY_S = 5.0


class ApiClient:
    """One model of one provider. May be used from any thread."""

    def __init__(
        self, settings: ProviderSettings, dialect: Dialect, http: Http, credentials: Credentials
    ) -> None:
        self.settings = settings
        self.dialect = dialect
        self.credentials = credentials
        self.http = http
        self._refuses_prefill = False
        self._refused_fields: frozenset[str] = frozenset()
        self._inquiring = threading.Lock()
        self._has_inquired = False

    def may_prefill(self) -> bool:
        """Whether the model continues an assistant's turn, as far as is known."""
        return self.dialect.may_prefill(self.settings.model) and not self._refuses_prefill

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """*request* without the fields that the model does not take.

        Raises InvalidRequest for what this provider cannot be asked.
        """
        return self.dialect.encode(
            request,
            self.settings.model,
            prefill=request.continue_final_message,
            without=self._refused_fields,
        )

    def learn(self, error: ProviderRefused) -> bool:
        """Remember what *error* says about the model; whether the request may be sent again."""
        self._refuses_prefill |= error.no_prefill
        field = error.unsupported
        is_new = field is not None and field not in self._refused_fields
        if field is None or not is_new or len(self._refused_fields) >= MAX_REFUSED_FIELDS:
            return False
        self._refused_fields |= {field}
        return True

    def ignored_prefill(self) -> None:
        """The model answered anew instead of continuing its turn: do not ask for that again."""
        self._refuses_prefill = True

    def exchange(self, deadline: float = math.inf, clock: Clock = time.monotonic) -> Exchange:
        """A new exchange with the provider; *deadline* is a reading of *clock*."""
        return Exchange(
            deadline,
            connect_timeout_s=self.settings.connect_timeout_s,
            near_only=self.settings.must_stay_near,
            clock=clock,
        )

    def warm(self) -> None:
        """Have a connection for the next request, and know which server it is; sends nothing of a
        conversation. Never raises."""
        if self.find_server():
            return
        exchange = self.exchange()
        with contextlib.suppress(HttpError):
            self.http.warm(self.settings.address, direct=self.settings.is_direct, exchange=exchange)

    @property
    def is_server_unknown(self) -> bool:
        """Whether it could be asked which server it is, and was not yet."""
        return self.settings.is_server_unknown and not self._has_inquired

    def find_server(self, cancellation: Cancellation | None = None) -> bool:
        """Ask which server it is, unless that is known or was asked; whether it was learned now.
        Takes FIND_SERVER_S at most. Never raises."""
        if not self.is_server_unknown:
            return False
        with self._inquiring:
            if not self.is_server_unknown:
                return False
            exchange = self.exchange(time.monotonic() + FIND_SERVER_S)
            with contextlib.suppress(HttpError, ProviderError):
                with (cancellation or Cancellation()).subscribed(exchange.cancel):
                    found = self.inquire(exchange).kind
                self._has_inquired = True
                if found is not None:
                    self.dialect = type(self.dialect)(replace(self.settings, server=found))
                return found is not None
        return False

    def contact(self) -> ServerFacts | None:
        """Reach the provider without a prompt: what it says about itself; None where it can only be
        connected to. Takes CONTACT_S at most.

        Raises ProviderError: it was not reached, does not work, or refuses the key.
        """
        settings = self.settings
        exchange = self.exchange(time.monotonic() + CONTACT_S)
        try:
            if settings.company.wire not in _LISTS_MODELS:
                self.http.warm(settings.address, direct=settings.is_direct, exchange=exchange)
                return None
            facts = self.inquire(exchange)
        except HttpError as error:
            raise NetworkFailed(settings.name, str(error)) from error
        if facts.status in (401, 403) or facts.status >= 500:
            raise self.dialect.error(facts.status, {}, b"")
        return facts

    def inquire(self, exchange: Exchange) -> ServerFacts:
        """What the server says about itself. Raises HttpError, and AuthFailed without a key."""
        settings = self.settings

        def get(url: str) -> Page:
            with closing(
                self.http.open(
                    self._signed(url, "GET", self.dialect.headers, b"", exchange), exchange
                )
            ) as found:
                return Page(found.status, found.headers, found.read())

        return inquire(get, settings.address, settings.root, is_own=settings.is_own_machine)

    def send(self, request: HttpRequest, exchange: Exchange) -> Incoming:
        """The head of the response to *request*, whatever it says; see check()."""
        url = self.settings.address + request.path
        signed = self._signed(url, "POST", request.headers, request.body, exchange)
        return self.http.open(signed, exchange)

    def _signed(
        self, url: str, method: str, headers: dict[str, str], body: bytes, exchange: Exchange
    ) -> Outgoing:
        """A request with the provider's own headers and its key."""
        outgoing = Outgoing(
            url=url,
            headers={"user-agent": "spillover"} | self.settings.extra_headers | headers,
            body=body,
            method=method,
            direct=self.settings.is_direct,
        )
        key = self.credentials.headers(outgoing, exchange)
        return replace(outgoing, headers=outgoing.headers | key)

    def check(self, incoming: Incoming, exchange: Exchange) -> None:
        """Raise the ProviderError that the head and the body of a response mean, if any."""
        name, status = self.settings.name, incoming.status
        if 300 <= status < 400:
            raise ProviderRefused(
                name,
                f"{self.settings.address} redirects to another address, where neither the key nor "
                "the conversation is sent: correct base_url",
            )
        if status != 200:
            with exchange.within(_ERROR_BODY_S, "an error's text"):
                body = incoming.read()
            raise self.dialect.error(status, incoming.headers, body)
        if incoming.headers.get("content-type", "").startswith("text/html"):
            raise ProviderRefused(
                name,
                "a web page came instead of an answer: correct base_url, or log in to the network",
            )
        if incoming.headers.get("content-encoding", "identity") != "identity":
            raise ProviderRefused(name, "the answer is compressed, which was not requested")
