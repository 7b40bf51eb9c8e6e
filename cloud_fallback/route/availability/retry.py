"""Decides whether and when to ask the same provider again. Pure.

The next provider, or the local model, serves a waiting user better than patience: a provider that
asks for more than a short delay is not asked again.
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
"""After an error that says nothing about capacity, such as a broken connection."""
MAX_WAIT_S = 2.0
FIRST_BACKOFF_S = 0.25


def retry_delay(error: ProviderError, n_retries: int, *, chance: float) -> float | None:
    """Seconds to wait before asking the provider of *error* again, at most MAX_WAIT_S; None: ask
    the next one.

    *n_retries* were already made. *chance*, from 0 to 1, spreads many waiting answers: a delay that
    the provider asks for is a lower bound, and our own backoff is cut by up to a half.
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
