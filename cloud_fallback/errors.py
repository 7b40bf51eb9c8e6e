"""What may go wrong with a cloud provider, sorted by what to do about it.

    EngineError
    ├── KeptLocal               nothing may leave the device; the local model can go on
    │   ├── ConsentRefused      the user or the owner did not agree
    │   │   └── ProviderDeclined the user does not want this provider; another one may be asked
    │   ├── RedactionFailed     it is not certain that all private text was taken out
    │   ├── BudgetExceeded      a limit is reached; holds the limit, what is spent, until when
    │   ├── PriceUnknown        a limit in money is set, but not the provider's prices
    │   └── LedgerUnavailable   the record of spending cannot be read or written
    ├── CannotContinue          no other writer can go on with this answer
    ├── SeamFailed              the new text cannot be joined to the answer
    └── ProviderError           names the provider; another writer can go on
        ├── NotNow              holds when to try again, if known
        │   ├── RateLimited     too many requests or tokens
        │   └── Overloaded      the provider lacks capacity, or is still starting
        ├── AuthFailed          the key is missing, wrong, or not allowed to use the model
        ├── BillingFailed       no money or quota is left at the provider
        ├── NetworkFailed       the provider was not reached, or the connection broke
        ├── ProviderRefused     the request is refused; never sent again unchanged
        │   └── ContextExceeded the conversation is too long for the model
        ├── ContentBlocked      the content policy; never sent to another provider instead
        └── Truncated           the stream ended without its terminal event

Messages never hold a key, a prompt or an answer.
"""

from __future__ import annotations

from datetime import datetime

from spillover.runtime.errors import EngineError


class KeptLocal(EngineError):
    """Nothing was sent: the owner or the user does not allow it, or that cannot be checked."""

    code: str = "kept_local"
    """What events call it."""


class ConsentRefused(KeptLocal):
    """The user, or the owner, did not agree that the answer leaves the device."""

    code = "consent"


class ProviderDeclined(ConsentRefused):
    """The user does not want this provider. Another one may be asked."""


class RedactionFailed(KeptLocal):
    """It is not certain that all private text was taken out."""

    code = "redaction"


class BudgetExceeded(KeptLocal):
    """*limit* and *spent* (reservations included) in *unit*; new money or tokens at *until*."""

    code = "budget"

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
    """A budget in money cannot be kept without the provider's prices."""

    code = "budget"


class LedgerUnavailable(KeptLocal):
    """The record of spending cannot be read or written."""

    code = "budget"


class CannotContinue(EngineError):
    """No other writer can go on with this answer."""


class SeamFailed(EngineError):
    """The new text does not fit the answer so far; another writer's may."""


class ProviderError(EngineError):
    """*provider* gave no answer, or no complete one."""

    code: str = "failed"
    """What events call it."""

    may_bill = False
    """It received the request and did not refuse it, so it may bill the prompt."""

    def __init__(self, provider: str, message: str) -> None:
        super().__init__(f"{provider}: {message}")
        self.provider = provider
        self.cause = message


class NotNow(ProviderError):
    """The provider may serve the same request later. *retry_after_s* None: it does not say when."""

    may_retry = True
    """False: it says that a retry is useless."""

    def __init__(self, provider: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(provider, message)
        self.retry_after_s = retry_after_s


class RateLimited(NotNow):
    """Too many requests or tokens for this key."""

    code = "rate_limited"


class Overloaded(NotNow):
    """The provider lacks capacity, or is still starting."""

    code = "overloaded"


class AuthFailed(ProviderError):
    """The key is missing, wrong, or not allowed to use this model."""

    code = "auth"


class BillingFailed(ProviderError):
    """No money or quota is left at the provider."""

    code = "billing"


class NetworkFailed(ProviderError):
    """The provider was not reached, or the connection broke."""

    code = "network"


class ProviderRefused(ProviderError):
    """The provider refuses the request as it was sent."""

    code = "refused"

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
        """The model does not continue an assistant's turn: ask in a user's turn instead."""
        self.unsupported = unsupported
        """An optional field that the model does not take: send the request without it."""


class ContextExceeded(ProviderRefused):
    """The conversation is too long for the provider's model."""

    code = "too_long"


class ContentBlocked(ProviderError):
    """The provider's content policy blocked the prompt or the answer."""

    code = "content_policy"


class Truncated(ProviderError):
    """The stream ended without its terminal event."""

    code = "truncated"
