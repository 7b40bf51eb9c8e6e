"""What may go wrong with a cloud provider, by what is to be done about it.

    EngineError
    ├── KeptLocal               the owner's rules keep it on the device; the local answer can go on
    │   ├── ConsentRefused      the user or the owner did not agree
    │   ├── RedactionFailed     what must not leave could not be taken out with certainty
    │   ├── BudgetExceeded      a limit is reached; carries it, what is spent, and until when
    │   ├── PriceUnknown        a limit in money, and a provider without prices
    │   └── LedgerUnavailable   the record of what was spent cannot be read or written
    ├── CannotContinue          this answer cannot be put to another writer at all
    ├── SeamFailed              the new writer's text cannot be joined to the old one's
    └── ProviderError           names the provider; the local answer can go on
        ├── NotNow              carries when to try again, if known
        │   ├── RateLimited     too many requests or tokens
        │   └── Overloaded      the provider is short of capacity, or still starting
        ├── AuthFailed          the key is missing, wrong, or may not use this model
        ├── BillingFailed       no money or no quota left at the provider
        ├── NetworkFailed       not reached, or the connection broke
        ├── ProviderRefused     the request cannot be served as sent; never sent again unchanged
        │   └── ContextExceeded longer than the provider's model can read
        ├── ContentBlocked      the provider's content policy; never sent elsewhere in silence
        └── Truncated           a stream that ended without its terminal event

Messages never hold a key, a prompt or an answer.
"""

from __future__ import annotations

from datetime import datetime

from spillover.runtime.errors import EngineError


class KeptLocal(EngineError):
    """Nothing was sent: the device's owner does not allow it, or it cannot be made sure of."""


class ConsentRefused(KeptLocal):
    """The user, or the owner, did not agree that the answer leaves the device."""


class RedactionFailed(KeptLocal):
    """What must not leave the device could not be taken out with certainty."""


class BudgetExceeded(KeptLocal):
    """*limit* and *spent* (reservations included) in *unit*; new money or tokens at *until*."""

    def __init__(
        self, name: str, *, limit: float, spent: float, unit: str, until: datetime
    ) -> None:
        super().__init__(
            f"the budget {name} is {limit:g} {unit} and {spent:g} are spent or reserved: "
            f"raise it, or wait until {until:%Y-%m-%d %H:%M} UTC"
        )
        self.name = name
        self.limit = limit
        self.spent = spent
        self.unit = unit
        self.until = until


class PriceUnknown(KeptLocal):
    """A budget in money cannot be kept with a provider whose prices are not known."""


class LedgerUnavailable(KeptLocal):
    """The record of what was spent cannot be read or written."""


class CannotContinue(EngineError):
    """No other writer can go on with this answer; the one that has it must."""


class SeamFailed(EngineError):
    """The new writer's text does not fit what was already sent; another writer's may."""


class ProviderError(EngineError):
    """*provider* did not answer, or not to the end."""

    may_bill = False
    """It has the request and did not refuse it, so that the prompt may have to be paid."""

    def __init__(self, provider: str, message: str) -> None:
        super().__init__(f"{provider}: {message}")
        self.provider = provider


class NotNow(ProviderError):
    """The provider may well serve the same request later.

    *retry_after_s* None: the provider does not say when. *may_retry* False: it says that another
    try is of no use.
    """

    def __init__(
        self,
        provider: str,
        message: str,
        retry_after_s: float | None = None,
        *,
        may_retry: bool = True,
    ) -> None:
        super().__init__(provider, message)
        self.retry_after_s = retry_after_s
        self.may_retry = may_retry


class RateLimited(NotNow):
    """Too many requests or tokens for this key."""


class Overloaded(NotNow):
    """The provider is short of capacity, or still starting."""


class AuthFailed(ProviderError):
    """The key is missing, wrong, or not allowed to do this."""


class BillingFailed(ProviderError):
    """No money or quota is left at the provider."""


class NetworkFailed(ProviderError):
    """The provider was not reached, or the connection broke."""


class ProviderRefused(ProviderError):
    """The provider cannot serve the request as it was sent."""

    def __init__(
        self,
        provider: str,
        message: str,
        *,
        no_prefill: bool = False,
        unsupported: str | None = None,
    ) -> None:
        super().__init__(provider, message)
        self.no_prefill = no_prefill
        """The model does not continue an assistant's turn: ask in the user's voice instead."""
        self.unsupported = unsupported
        """An optional field that the model does not take: encode(…, without={it})."""


class ContextExceeded(ProviderRefused):
    """The conversation is longer than the provider's model can read."""


class ContentBlocked(ProviderError):
    """The provider's content policy stopped the prompt or the answer."""


class Truncated(ProviderError):
    """The stream ended without its terminal event."""
