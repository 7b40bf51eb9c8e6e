"""What lets requests in: the shape of credentials, and a key."""

from __future__ import annotations

from collections.abc import Callable

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.providers.credentials.secret import Secret, is_header_text


class Credentials:
    """Lets requests in: this one as they are, for a machine that wants no key, or not at all where
    there is a *problem*. May be used from any thread."""

    def __init__(self, provider: str, problem: str | None = None) -> None:
        self.provider = provider
        self._problem = problem

    @property
    def problem(self) -> str | None:
        """What is missing, and what to do; known without asking anybody. None: nothing."""
        return self._problem

    def headers(self, outgoing: Outgoing, exchange: Exchange) -> dict[str, str]:
        """What *outgoing* needs on top of its headers.

        May ask others for a token, within *exchange*. Raises ProviderError, Cancelled or TimedOut.
        """
        self.check()
        return {}

    def renew(self) -> bool:
        """The last headers were not accepted: whether the next ones may fare better."""
        return False

    def check(self) -> None:
        """Raises AuthFailed where there is a problem."""
        if problem := self.problem:
            raise AuthFailed(self.provider, problem)


class Key(Credentials):
    """A key that *as_headers* makes headers of."""

    def __init__(
        self, provider: str, key: Secret, as_headers: Callable[[str], dict[str, str]]
    ) -> None:
        super().__init__(provider)
        self._key = key
        self._as_headers = as_headers

    @property
    def problem(self) -> str | None:
        if is_header_text(self._key.reveal()):
            return None
        return f"the key in {self._key.origin} has characters that no key has: set it again"

    def headers(self, outgoing: Outgoing, exchange: Exchange) -> dict[str, str]:
        self.check()
        return self._as_headers(self._key.reveal())
