"""The shape of credentials, and the simple kinds of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.http.call import Call
from spillover.cloud_fallback.http.client import Outgoing
from spillover.cloud_fallback.providers.credentials.secret import Secret, is_header_text


class Credentials(Protocol):
    """Lets requests in. May be used from any thread."""

    @property
    def problem(self) -> str | None:
        """What is missing, known without asking anybody; None: nothing."""
        ...

    def headers(self, outgoing: Outgoing, call: Call) -> dict[str, str]:
        """What *outgoing* needs on top of its headers.

        May ask others for a token, within *call*. Raises ProviderError, Stopped or TimedOut.
        """
        ...

    def renew(self) -> bool:
        """The last headers were not accepted: whether the next ones may fare better."""
        ...


class NoKey:
    """For a machine of one's own."""

    problem = None

    def headers(self, outgoing: Outgoing, call: Call) -> dict[str, str]:
        return {}

    def renew(self) -> bool:
        return False


class Key:
    """A key that *dress* makes headers of."""

    def __init__(self, provider: str, key: Secret, dress: Callable[[str], dict[str, str]]) -> None:
        self._provider = provider
        self._key = key
        self._dress = dress

    @property
    def problem(self) -> str | None:
        if is_header_text(self._key.reveal()):
            return None
        return f"the key in {self._key.origin} has characters that no key has: set it anew"

    def headers(self, outgoing: Outgoing, call: Call) -> dict[str, str]:
        if self.problem:
            raise AuthFailed(self._provider, self.problem)
        return self._dress(self._key.reveal())

    def renew(self) -> bool:
        return False


class Missing:
    """There is no way in; *problem* says what to do."""

    def __init__(self, provider: str, problem: str) -> None:
        self.problem: str | None = problem
        self._provider = provider

    def headers(self, outgoing: Outgoing, call: Call) -> dict[str, str]:
        raise AuthFailed(self._provider, self.problem or "")

    def renew(self) -> bool:
        return False
