"""Whether the same provider is asked again, and when. Pure.

A waiting user is better served by the next provider, or by the local model, than by patience: a
provider that asks for more than a moment is left alone.
"""

from __future__ import annotations

from spillover.cloud_fallback.errors import (
    AuthFailed,
    BillingFailed,
    ContentBlocked,
    NotNow,
    ProviderError,
    ProviderRefused,
)

MAX_RETRIES = 2
MAX_RETRIES_WHEN_BROKEN = 1
"""After an error that says nothing of capacity, such as a connection that broke."""
MAX_WAIT_S = 2.0
FIRST_BACKOFF_S = 0.25


def retry_delay(error: ProviderError, n_retries: int, *, chance: float) -> float | None:
    """Seconds until the provider of *error* may be asked again, never more than MAX_WAIT_S; None:
    it is the next one's turn.

    *n_retries* have been made already. *chance*, from 0 to 1, spreads many waiting answers: what
    a provider asks for is a lower bound, a backoff of our own is cut by up to a half.
    """
    if isinstance(error, AuthFailed | BillingFailed | ProviderRefused | ContentBlocked):
        return None
    if not isinstance(error, NotNow):
        return _backoff(n_retries, chance) if n_retries < MAX_RETRIES_WHEN_BROKEN else None
    if n_retries >= MAX_RETRIES or not error.may_retry:
        return None
    if error.retry_after_s is None:
        return _backoff(n_retries, chance)
    if error.retry_after_s > MAX_WAIT_S:
        return None
    return min(error.retry_after_s + FIRST_BACKOFF_S * chance, MAX_WAIT_S)


def _backoff(n_retries: int, chance: float) -> float:
    longest = min(FIRST_BACKOFF_S * 2.0**n_retries, MAX_WAIT_S)
    return longest * (0.5 + 0.5 * chance)
