"""Requests stay away from providers that fail; one probe finds out whether they are back."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spillover.cloud_fallback.errors import (
    AuthFailed,
    BillingFailed,
    ContentBlocked,
    LedgerUnavailable,
    NetworkFailed,
    Overloaded,
    ProviderError,
    ProviderRefused,
    RateLimited,
    Truncated,
)
from spillover.cloud_fallback.route.availability.breaker import CircuitBreakers, CircuitOpen, Permit
from spillover.cloud_fallback.route.availability.circuit import MAX_RETRY_AFTER_S, PROBE_LIFE_S


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breakers(clock: FakeClock) -> CircuitBreakers:
    return CircuitBreakers(local_network={"lan"}, clock=clock)


def permit(breakers: CircuitBreakers, provider: str = "a") -> Permit:
    granted = breakers.acquire(provider)
    assert isinstance(granted, Permit), granted
    return granted


def refusal(breakers: CircuitBreakers, provider: str = "a") -> CircuitOpen:
    refused = breakers.acquire(provider)
    assert isinstance(refused, CircuitOpen)
    return refused


def error(kind: type[ProviderError]) -> ProviderError:
    return kind("a", "failed")


def test_a_rate_limited_provider_cools_for_as_long_as_it_asked(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers).failure(RateLimited("a", "429", retry_after_s=60))
    clock.now += 59.9
    refused = refusal(breakers)
    assert (refused.provider, refused.reason) == ("a", "rate_limited")
    assert refused.retry_after_s == pytest.approx(0.1)
    clock.now += 0.1
    permit(breakers)


@pytest.mark.parametrize("told", [-5.0, 0.0, float("nan"), float("inf"), 1e12])
def test_a_senseless_retry_after_neither_opens_at_once_nor_forever(
    breakers: CircuitBreakers, clock: FakeClock, told: float
) -> None:
    permit(breakers).failure(RateLimited("a", "429", retry_after_s=told))
    wait_s = refusal(breakers).retry_after_s
    assert wait_s is not None
    assert 1 <= wait_s <= MAX_RETRY_AFTER_S
    clock.now += wait_s
    permit(breakers)


def test_an_overloaded_provider_cools_longer_each_time_and_short_again_after_an_answer(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    waits = []
    for _ in range(9):
        permit(breakers).failure(Overloaded("a", "529"))
        waits.append(refusal(breakers).retry_after_s)
        clock.now += waits[-1] or 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    permit(breakers).success()
    permit(breakers).failure(Overloaded("a", "529"))
    assert refusal(breakers).retry_after_s == 1


@pytest.mark.parametrize(("kind", "reason"), [(AuthFailed, "auth"), (BillingFailed, "billing")])
def test_a_wrong_key_or_empty_account_is_tried_again_after_ten_minutes(
    breakers: CircuitBreakers, clock: FakeClock, kind: type[ProviderError], reason: str
) -> None:
    """It used to be closed until the server was started again."""
    permit(breakers).failure(error(kind))
    refused = refusal(breakers)
    assert (refused.reason, refused.retry_after_s) == (reason, 600)
    clock.now += 600
    permit(breakers).failure(error(kind))
    assert refusal(breakers).retry_after_s == 1200
    clock.now += 1200
    permit(breakers).success()
    permit(breakers)


@pytest.mark.parametrize("kind", [ProviderRefused, ContentBlocked])
def test_a_request_at_fault_never_closes_the_provider(
    breakers: CircuitBreakers, kind: type[ProviderError]
) -> None:
    for _ in range(10):
        permit(breakers).failure(error(kind))
    permit(breakers)


@pytest.mark.parametrize("kind", [Truncated, ProviderError])
def test_only_the_third_broken_stream_in_a_row_counts(
    breakers: CircuitBreakers, kind: type[ProviderError]
) -> None:
    for _ in range(2):
        permit(breakers).failure(error(kind))
    permit(breakers).success()
    for _ in range(3):
        permit(breakers).failure(error(kind))
    assert refusal(breakers).reason == "truncated"


def test_a_stream_that_breaks_after_its_first_text_still_counts(breakers: CircuitBreakers) -> None:
    for _ in range(3):
        broken = permit(breakers)
        broken.answered()
        broken.failure(error(Truncated))
    assert refusal(breakers).reason == "truncated"


def test_after_a_network_failure_one_other_provider_probes_for_all(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers, "a").failure(error(NetworkFailed))
    probe = permit(breakers, "b")
    assert refusal(breakers, "c").reason == "probing"
    assert refusal(breakers, "a").reason in ("network", "probing")
    probe.answered()
    permit(breakers, "c")
    permit(breakers, "b")
    assert refusal(breakers, "a").reason == "network"


def test_when_the_probe_fails_too_all_clouds_wait_and_the_machine_next_door_does_not(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers, "a").failure(error(NetworkFailed))
    permit(breakers, "b").failure(error(NetworkFailed))
    assert refusal(breakers, "c").reason == "network"
    permit(breakers, "lan")
    clock.now += 0.5
    permit(breakers, "c").success()
    permit(breakers, "d")


def test_the_machine_next_door_says_nothing_about_the_internet(breakers: CircuitBreakers) -> None:
    permit(breakers, "lan").failure(NetworkFailed("lan", "no route"))
    assert refusal(breakers, "lan").reason == "network"
    permit(breakers, "a")
    permit(breakers, "b")


def test_any_reply_shows_that_the_network_is_back(breakers: CircuitBreakers) -> None:
    permit(breakers, "a").failure(error(NetworkFailed))
    permit(breakers, "b").failure(RateLimited("b", "429", retry_after_s=60))
    permit(breakers, "c")
    permit(breakers, "d")


def test_twenty_failures_at_once_are_one_failure(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers).success()  # it is known to answer, so that all may go out
    for granted in [permit(breakers) for _ in range(20)]:
        granted.failure(Overloaded("a", "529"))
    assert refusal(breakers).retry_after_s == 1


def test_of_many_retry_afters_the_longest_holds(breakers: CircuitBreakers) -> None:
    for granted, told in zip([permit(breakers) for _ in range(3)], (10, 60, 30), strict=True):
        granted.failure(RateLimited("a", "429", retry_after_s=told))
    assert refusal(breakers).retry_after_s == 60


def test_an_answer_from_before_the_failure_does_not_reopen_the_provider(
    breakers: CircuitBreakers,
) -> None:
    old, failing = permit(breakers), permit(breakers)
    failing.failure(RateLimited("a", "429", retry_after_s=60))
    old.success()
    assert refusal(breakers).reason == "rate_limited"


def test_a_failure_of_a_request_from_before_the_recovery_proves_nothing(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    old, failing = permit(breakers), permit(breakers)
    failing.failure(Overloaded("a", "529"))
    clock.now += 1
    permit(breakers).success()
    old.failure(Overloaded("a", "529"))
    permit(breakers)


def test_of_twenty_threads_exactly_one_probes_and_the_others_are_refused_at_once(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers).failure(Overloaded("a", "529"))
    clock.now += 1
    start = threading.Barrier(20)

    def try_it(_: int) -> Permit | CircuitOpen:
        start.wait()
        return breakers.acquire("a")

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(try_it, range(20)))
    assert sum(isinstance(result, Permit) for result in results) == 1
    assert {r.reason for r in results if isinstance(r, CircuitOpen)} == {"probing"}


def test_a_probe_that_never_reports_is_replaced_and_its_late_word_is_ignored(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers).failure(Overloaded("a", "529"))
    clock.now += 1
    lost = permit(breakers)
    clock.now += PROBE_LIFE_S - 0.1
    assert refusal(breakers).reason == "probing"
    clock.now += 0.1
    probe = permit(breakers)
    lost.success()
    assert refusal(breakers).reason == "probing"
    probe.success()
    permit(breakers)


def test_a_cancelled_probe_leaves_its_place_to_the_next_request(
    breakers: CircuitBreakers, clock: FakeClock
) -> None:
    permit(breakers).failure(Overloaded("a", "529"))
    clock.now += 1
    with permit(breakers):
        pass
    permit(breakers)


def test_what_leaves_the_with_block_is_the_verdict(breakers: CircuitBreakers) -> None:
    with pytest.raises(LedgerUnavailable), permit(breakers):
        raise LedgerUnavailable("locked")
    with pytest.raises(AuthFailed), permit(breakers):
        raise AuthFailed("a", "401")
    assert refusal(breakers).reason == "auth"


def test_only_the_first_word_counts(breakers: CircuitBreakers) -> None:
    granted = permit(breakers)
    granted.success()
    granted.failure(AuthFailed("a", "401"))
    permit(breakers)


@pytest.mark.parametrize("jump_s", [8 * 3600.0, -8 * 3600.0])
def test_after_a_jump_of_the_clock_one_probe_goes_out(
    breakers: CircuitBreakers, clock: FakeClock, jump_s: float
) -> None:
    permit(breakers).failure(RateLimited("a", "429", retry_after_s=60))
    clock.now += jump_s
    probe = permit(breakers)
    assert refusal(breakers).reason == "probing"
    probe.success()
    permit(breakers)


def test_the_blocked_providers_are_listed(breakers: CircuitBreakers) -> None:
    permit(breakers, "a").failure(AuthFailed("a", "401"))
    permit(breakers, "b").success()
    assert breakers.blocked() == [CircuitOpen(provider="a", reason="auth", retry_after_s=600)]


ERRORS = st.sampled_from(
    [RateLimited, Overloaded, AuthFailed, NetworkFailed, Truncated, ProviderRefused]
)
PROVIDERS = st.sampled_from(["a", "b", "lan"])


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: never two probes, never shut for good by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breakers = CircuitBreakers(local_network={"lan"}, clock=self.clock)
        self.running: list[Permit] = []

    @rule(provider=PROVIDERS)
    def acquire(self, provider: str) -> None:
        """A permit means: closed, and another one is free; or it is the probe, the only one."""
        granted = self.breakers.acquire(provider)
        if isinstance(granted, CircuitOpen):
            assert granted in self.breakers.blocked()
            return
        self.running.append(granted)
        second = self.breakers.acquire(provider)
        if isinstance(second, Permit):
            self.running.append(second)
        else:
            assert second.reason == "probing"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=ERRORS)
    def fail(self, data: st.DataObject, kind: type[ProviderError]) -> None:
        granted = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        granted.failure(kind(granted.provider, "failed"))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["success", "release", "answered"]))
    def end(self, data: st.DataObject, how: str) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        granted = self.running[index] if how == "answered" else self.running.pop(index)
        getattr(granted, how)()

    @rule(seconds=st.sampled_from([0.1, 1.0, 60.0, 4000.0, -100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def an_open_circuit_gives_one_permit_and_then_none(self) -> None:
        for refused in self.breakers.blocked():
            assert isinstance(self.breakers.acquire(refused.provider), CircuitOpen)
            assert 0 < refused.retry_after_s <= MAX_RETRY_AFTER_S

    @invariant()
    def every_wait_ends(self) -> None:
        now = self.clock.now
        self.clock.now += MAX_RETRY_AFTER_S + PROBE_LIFE_S
        assert not self.breakers.blocked()
        self.clock.now = now


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
