"""A cloud provider as an engine: the same shape as the local model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

from spillover.cloud_fallback.errors import AuthFailed, ProviderRefused
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.errors import HttpError
from spillover.cloud_fallback.http.exchange import Clock, Exchange
from spillover.cloud_fallback.providers.cloud_stream import CloudStream
from spillover.cloud_fallback.providers.credentials.credentials import Credentials
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.lessons import Lessons
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import EngineEvent, WriterId
from spillover.runtime.request import GenerationRequest


class CloudEngine:
    """Answers from one model of one provider. May be used from any thread.

    Stop strings that the provider does not look for itself are found here. Nothing is tried
    twice, but for a request that was refused at once for an optional field (it goes again without
    that field), a token that had run out, and a connection that was kept alive and had died.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        dialect: Dialect,
        http: Http,
        credentials: Credentials,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self.settings = settings
        self.dialect = dialect
        self.http = http
        self.credentials = credentials
        self.lessons = Lessons()
        self.clock = clock
        self.name = settings.name
        self.writer = WriterId(origin="cloud", model=settings.model, provider=settings.name)

    @property
    def problem(self) -> str | None:
        """Why it cannot answer, as far as that is known without asking; None: nothing."""
        return self.credentials.problem

    def may_prefill(self) -> bool:
        """Whether the model goes on with an assistant's turn, as far as is known."""
        return self.dialect.may_prefill(self.settings.model) and not self.lessons.no_prefill

    def warm(self) -> None:
        """Open a connection for the next request; sends none. Never raises.

        Waits for the connection, so it wants a thread of its own.
        """
        exchange = Exchange(connect_timeout_s=self.settings.connect_timeout_s)
        with contextlib.suppress(HttpError):
            self.http.warm(self.settings.address, direct=self.settings.is_direct, exchange=exchange)

    def check(self, request: GenerationRequest) -> None:
        """Whether it could be asked at all. Raises AuthFailed without a key, InvalidRequest for
        what this provider cannot be asked. Sends nothing."""
        if self.problem is not None:
            raise AuthFailed(self.name, self.problem)
        self.dialect.encode(
            request,
            self.settings.model,
            prefill=request.continue_final_message,
            without=self.lessons.unsupported,
        )

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """See Engine. With continue_final_message the last turn is prefilled.

        Sends nothing before it is first advanced. Raises InvalidRequest for what the provider
        cannot be asked, ProviderErrors at any time; ProviderRefused(no_prefill=True) is remembered.
        """
        if request.n != 1:
            raise InvalidRequest(f"{self.name} gives one answer at a time", "n")
        try:
            yield from CloudStream(self, request, cancellation or Cancellation()).events()
        except ProviderRefused as error:
            self.lessons.learn(error)
            raise

    def close(self) -> None:
        """Nothing to do: connections belong to the Http that all engines share."""
