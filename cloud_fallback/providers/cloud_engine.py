"""A cloud provider as an engine: the same shape as the local model."""

from __future__ import annotations

import time
from collections.abc import Generator

from spillover.cloud_fallback.errors import AuthFailed, ProviderRefused
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.exchange import Clock
from spillover.cloud_fallback.providers.api_client import ApiClient
from spillover.cloud_fallback.providers.cloud_stream import CloudStream
from spillover.cloud_fallback.providers.credentials.credentials import Credentials
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import EngineEvent, WriterId
from spillover.runtime.request import GenerationRequest


class CloudEngine:
    """Answers from one model of one provider. May be used from any thread.

    It finds the stop strings that the provider does not look for. A request is sent again only
    when it was refused at once for an optional field (then without that field), when a token had
    expired, or when a connection that was kept alive had died.
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
        self.api = ApiClient(settings, dialect, http, credentials)
        self.name = settings.name
        self.writer = WriterId(origin="cloud", model=settings.model, provider=settings.name)
        self._clock = clock

    def with_settings(self, settings: ProviderSettings) -> CloudEngine:
        """The same provider with other settings."""
        http, credentials = self.api.http, self.api.credentials
        dialect = type(self.api.dialect)(settings)
        return CloudEngine(settings, dialect, http, credentials, clock=self._clock)

    @property
    def problem(self) -> str | None:
        """Why it cannot answer, as far as that is known without asking; None: nothing."""
        return self.api.credentials.problem

    def may_prefill(self) -> bool:
        """See ApiClient."""
        return self.api.may_prefill()

    @property
    def hides_reasoning(self) -> bool:
        """See Dialect."""
        return self.api.dialect.hides_reasoning(self.settings.model)

    def warm(self) -> None:
        """See ApiClient."""
        self.api.warm()

    @property
    def is_server_unknown(self) -> bool:
        """See ApiClient."""
        return self.api.is_server_unknown

    def find_server(self, cancellation: Cancellation | None = None) -> bool:
        """See ApiClient."""
        return self.api.find_server(cancellation)

    def check(self, request: GenerationRequest) -> None:
        """Raise AuthFailed without a key, InvalidRequest for what this provider cannot be asked.
        Sends nothing."""
        if self.problem is not None:
            raise AuthFailed(self.name, self.problem)
        self.api.encode(request)

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """See Engine. With continue_final_message the last turn is prefilled.

        Sends nothing before it is first advanced. Raises InvalidRequest for what the provider
        cannot be asked, ProviderErrors at any time; ProviderRefused(no_prefill=True) is remembered.
        """
        if request.n != 1:
            raise InvalidRequest(f"{self.name} gives one answer at a time: ask for n = 1", "n")
        stream = CloudStream(self.api, request, cancellation or Cancellation(), self._clock)
        try:
            yield from stream.events()
        except ProviderRefused as error:
            self.api.learn(error)
            raise

    def close(self) -> None:
        """Nothing to do: connections belong to the Http that all engines share."""
