"""Short waits are waited for, long ones are the next provider's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback import errors
from spillover.cloud_fallback.errors import NetworkFailed, Overloaded, ProviderError, RateLimited
from spillover.cloud_fallback.route.availability.retry import MAX_RETRIES, MAX_WAIT_S, retry_delay


def useless_to_retry() -> RateLimited:
    error = RateLimited("p", "", 0.1)
    error.may_retry = False
    return error


@pytest.mark.parametrize(
    "error",
    [
        errors.AuthFailed("p", ""),
        errors.BillingFailed("p", ""),
        errors.ProviderRefused("p", ""),
        errors.ContextExceeded("p", ""),
        errors.ContentBlocked("p", ""),
        useless_to_retry(),
        RateLimited("p", "", 60.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_waiting_does_not_mend_are_not_retried(error: ProviderError) -> None:
    assert retry_delay(error, 0, chance=0.5) is None


def test_the_delay_that_a_provider_asks_for_is_the_shortest_wait() -> None:
    delays = [retry_delay(RateLimited("p", "", 1.5), 0, chance=c / 10) for c in range(11)]
    assert delays[0] == 1.5
    assert delays == sorted(delays, key=lambda d: d or 0)
    assert delays[-1] == 1.75


def test_waits_without_advice_grow() -> None:
    first, second = (retry_delay(Overloaded("p", ""), n, chance=1) for n in (0, 1))
    assert (first, second) == (0.25, 0.5)


def test_a_broken_connection_is_tried_once_more() -> None:
    assert retry_delay(NetworkFailed("p", ""), 0, chance=0) == 0.125
    assert retry_delay(NetworkFailed("p", ""), 1, chance=0) is None


@given(
    after=st.none() | st.floats(0, 1e6),
    n_retries=st.integers(0, 10),
    chance=st.floats(0, 1),
)
def test_waits_are_few_and_short(after: float | None, n_retries: int, chance: float) -> None:
    delay = retry_delay(Overloaded("p", "", after), n_retries, chance=chance)
    if delay is not None:
        assert 0 <= delay <= MAX_WAIT_S
        assert n_retries < MAX_RETRIES
