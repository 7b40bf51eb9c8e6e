"""Days, months, clocks that jump, and reservations that outlive their process."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime

import pytest

from spillover.cloud_fallback.errors import BudgetExceeded, LedgerUnavailable
from spillover.cloud_fallback.spending.budget import STEP_TOKENS
from spillover.cloud_fallback.spending.ledger import RESERVATION_LIFE_S
from spillover.cloud_fallback.spending.limits import BudgetLimits, end_of
from spillover.cloud_fallback.spending.prices import Prices

from .amounts import cost, held, leg, spend, spent_today
from .conftest import DAY_S, NOON, FakeTime, MakeBudget


@pytest.mark.parametrize(
    ("limits", "passes_s"),
    [
        (BudgetLimits(tokens_per_day=150), DAY_S / 2),
        (BudgetLimits(tokens_per_month=150), 1.5 * DAY_S),
    ],
)
def test_a_new_day_or_month_of_utc_brings_a_new_budget(
    make_budget: MakeBudget, clock: FakeTime, limits: BudgetLimits, passes_s: float
) -> None:
    budget = make_budget(limits)
    spend(budget, 100, 50)
    clock.now += passes_s - 1
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())
    clock.now += 1
    budget.reserve("p", cost()).release()


def test_a_month_holds_what_its_days_spent(make_budget: MakeBudget, clock: FakeTime) -> None:
    budget = make_budget(BudgetLimits(tokens_per_month=300))
    clock.now = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
    for _ in range(3):
        spend(budget, 50, 50)
        clock.now += 10 * DAY_S
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("p", cost())
    assert caught.value.until == datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "end"),
    [("2026-12-31T23:59:59", "2027-01-01"), ("2028-02-01T00:00:00", "2028-03-01")],
)
def test_months_end_where_they_should(now: str, end: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    assert end_of("month", moment) == datetime.fromisoformat(end).replace(tzinfo=UTC)


def test_the_day_is_that_of_utc_wherever_the_device_is(
    make_budget: MakeBudget, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=150))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    spend(budget, 100, 50)
    monkeypatch.setenv("TZ", "Pacific/Honolulu")
    time.tzset()
    try:
        with pytest.raises(BudgetExceeded):
            budget.reserve("p", cost())
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_that_goes_back_does_not_bring_money_back(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=150))
    clock.now += 5 * DAY_S
    spend(budget, 100, 50)
    clock.now -= 5 * DAY_S
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())


def test_a_clock_in_1970_closes_the_budget(make_budget: MakeBudget, clock: FakeTime) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=150))
    budget.allowances()
    clock.now = 100.0
    with pytest.raises(LedgerUnavailable, match="clock says 1970-01-01"):
        budget.reserve("p", cost())


def test_a_clock_that_was_once_in_the_far_future_does_not_close_it_for_years(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=150))
    clock.now += 20 * 365 * DAY_S
    spend(budget, 100, 50)
    clock.now = NOON
    budget.reserve("p", cost())


def test_a_reservation_of_a_dead_process_expires_and_its_noted_part_is_booked(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    dead, budget = (make_budget(BudgetLimits(tokens_per_day=1000)) for _ in range(2))
    dead.reserve("p", cost(100, 900)).note(0)
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())
    clock.now += RESERVATION_LIFE_S
    budget.reserve("p", cost(100, 300)).release()
    assert spent_today(budget).tokens == 100


@pytest.mark.parametrize("tokens_per_s", [1, 30, 1000])
def test_a_dead_process_is_booked_at_least_what_came_and_little_more(
    make_budget: MakeBudget, clock: FakeTime, tokens_per_s: int
) -> None:
    dead, budget = (make_budget(BudgetLimits(tokens_per_day=100_000)) for _ in range(2))
    reservation = dead.reserve("p", cost(100, 50_000))
    n = 0
    for _ in range(200):
        clock.now += 0.1
        n += max(1, tokens_per_s // 10)
        reservation.note(n)
    clock.now += RESERVATION_LIFE_S
    booked = spent_today(budget).tokens - 100
    assert n <= booked <= n + STEP_TOKENS


@pytest.mark.parametrize("jump_s", [8 * 3600.0, -8 * 3600.0])
def test_an_answer_that_slept_through_its_expiry_is_booked_once(
    make_budget: MakeBudget, clock: FakeTime, jump_s: float
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_month=1000))
    reservation = budget.reserve("p", cost(100, 500))
    clock.now += RESERVATION_LIFE_S / 2
    reservation.note(50)
    clock.now += jump_s
    assert budget.allowances()[0].reserved == 0
    reservation.note(60)
    reservation.settle(leg(100, 60))
    assert budget.allowances()[0].spent == 160


def test_an_expired_reservation_in_use_is_held_again(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_month=1000))
    reservation = budget.reserve("p", cost(100, 500))
    clock.now += 8 * 3600.0
    budget.allowances()
    reservation.note(10)
    (allowance,) = budget.allowances()
    assert allowance.spent + allowance.reserved == 600


def test_the_money_of_an_expired_reservation_is_held_again_too(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(BudgetLimits(usd_per_month=1))
    reservation = budget.reserve("p", cost(100, 500))
    clock.now += 8 * 3600.0
    budget.allowances()
    reservation.note(10)
    (allowance,) = budget.allowances()
    assert allowance.spent + allowance.reserved == 100 * 1000 + 500 * 10_000


def test_a_prompt_that_costs_too_much_is_refused_even_if_answers_are_free(
    make_budget: MakeBudget,
) -> None:
    prices = Prices(input_usd=1, output_usd=0, priced_on=date(2026, 5, 1))
    budget = make_budget(BudgetLimits(usd_per_day=0.0001))
    assert budget.reserve("p", cost(100, 100, prices)).max_completion_tokens is None
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost(100, 100, prices))


def test_a_long_answer_keeps_its_reservation_alive(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=1000))
    reservation = budget.reserve("p", cost(100, 900))
    for n in range(100):
        clock.now += 60
        reservation.note(n)
    assert held(budget) == 1000


def test_all_limits_are_reported(make_budget: MakeBudget) -> None:
    budget = make_budget(
        BudgetLimits(usd_per_month=5), p=BudgetLimits(tokens_per_day=7), q=BudgetLimits()
    )
    assert [(a.line.provider, a.line.period, a.unit) for a in budget.allowances()] == [
        (None, "month", "USD"),
        ("p", "day", "tokens"),
    ]
