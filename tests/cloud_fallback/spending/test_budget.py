"""The cloud costs no more than its owner allows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spillover.cloud_fallback.errors import BudgetExceeded, PriceUnknown
from spillover.cloud_fallback.spending.budget import MIN_COMPLETION_TOKENS
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.limits import Amount, BudgetLimits
from spillover.cloud_fallback.spending.prices import FREE

from .amounts import PRICES, cost, held, leg, spend, spent_today
from .conftest import FakeTime, MakeBudget


class Counting(Database):
    n_transactions = 0

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        self.n_transactions += 1
        with super().transaction() as connection:
            yield connection


def test_a_settled_answer_is_booked_and_its_leg_carries_the_cost(make_budget: MakeBudget) -> None:
    budget = make_budget(BudgetLimits(usd_per_day=1))
    reservation = budget.reserve("p", cost(100, 1000))
    assert held(budget) == 100 * 1000 + 1000 * 10_000
    assert reservation.settle(leg(100, 50)).cost_usd == pytest.approx(0.0006)
    assert held(budget) == 0
    assert spent_today(budget) == Amount(600_000, 150)


def test_the_cost_that_the_provider_reports_is_believed(make_budget: MakeBudget) -> None:
    budget = make_budget(BudgetLimits(usd_per_day=1))
    budget.reserve("p", cost()).settle(leg(cost_usd=0.5))
    assert spent_today(budget).nano_usd == 500_000_000


def test_a_request_that_was_never_sent_costs_nothing(make_budget: MakeBudget) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=1000))
    budget.reserve("p", cost()).release()
    with budget.reserve("p", cost()):
        pass
    assert (held(budget), spent_today(budget)) == (0, Amount())


def test_an_answer_that_broke_off_is_booked_by_what_was_noted(make_budget: MakeBudget) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=1000))
    with budget.reserve("p", cost(100, 500)) as reservation:
        reservation.note(0)
        reservation.note(70)
    assert spent_today(budget).tokens == 170


def test_a_reservation_ends_once(make_budget: MakeBudget) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=1000))
    with budget.reserve("p", cost()) as reservation:
        reservation.settle(leg(100, 20))
        reservation.settle(leg(100, 20))
        reservation.release()
    assert spent_today(budget).tokens == 120


def test_what_is_reserved_while_another_waits_for_the_ledger_stays_reserved(
    make_budget: MakeBudget,
) -> None:
    """The one that waited took the other's end for one from before a jump of the clock, freed it,
    and twenty answers at once cost more than their limit."""
    budget = make_budget(BudgetLimits(tokens_per_day=1000))
    now = budget.clock()
    other = threading.Thread(target=lambda: budget.reserve("p", cost(100, 200)))

    def earlier() -> float:
        """The first answer's time, which it reads as late as it can: the other one is done by
        then, unless it has to wait."""
        budget.clock = lambda: now + 1
        other.start()
        other.join(0.2)
        return now

    budget.clock = earlier
    budget.reserve("p", cost(100, 200))
    other.join()
    assert held(budget) == 600


def test_a_spent_budget_is_refused_with_limit_spent_and_until(
    make_budget: MakeBudget,
) -> None:
    budget = make_budget(BudgetLimits(usd_per_day=0.01))
    spend(budget, 0, 999)
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("p", cost())
    error = caught.value
    assert (error.limit, error.unit) == (0.01, "USD")
    assert error.spent == pytest.approx(0.00999)
    assert error.until == datetime(2026, 5, 31, tzinfo=UTC)
    assert str(error) == (
        "the budget of all providers per day is 0.01 USD and 0.00999 are spent or reserved: "
        "raise it, or wait until 2026-05-31 00:00 UTC"
    )


def test_reserved_money_is_not_available_to_others(make_budget: MakeBudget) -> None:
    budget, other = (
        make_budget(BudgetLimits(tokens_per_day=400)),
        make_budget(BudgetLimits(tokens_per_day=400)),
    )
    first = budget.reserve("p", cost(100, 100))
    second = other.reserve("p", cost(100, 100))
    with pytest.raises(BudgetExceeded):
        other.reserve("p", cost(100, 100))
    first.release()
    budget.reserve("p", cost(100, 100))
    second.release()


@pytest.mark.parametrize(
    "limits", [BudgetLimits(tokens_per_day=150), BudgetLimits(usd_per_day=0.0006)]
)
def test_a_budget_that_covers_only_part_shortens_the_answer(
    make_budget: MakeBudget, limits: BudgetLimits
) -> None:
    reservation = make_budget(limits).reserve("p", cost(100, 100))
    assert reservation.max_completion_tokens == 50


@pytest.mark.parametrize(("left", "fits"), [(MIN_COMPLETION_TOKENS, True), (15, False)])
def test_a_budget_for_a_few_words_is_not_worth_a_request(
    make_budget: MakeBudget, left: int, fits: bool
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=100 + left))
    if fits:
        assert budget.reserve("p", cost(100, None)).max_completion_tokens == left
    else:
        with pytest.raises(BudgetExceeded):
            budget.reserve("p", cost(100, None))


def test_three_last_tokens_of_a_limit_may_still_be_asked_for(make_budget: MakeBudget) -> None:
    reservation = make_budget(BudgetLimits(tokens_per_day=103)).reserve("p", cost(100, 3))
    assert reservation.max_completion_tokens is None


def test_the_tightest_of_all_limits_holds(make_budget: MakeBudget) -> None:
    budget = make_budget(
        BudgetLimits(usd_per_day=1, tokens_per_month=10_000), p=BudgetLimits(tokens_per_day=130)
    )
    assert budget.reserve("p", cost(100, 100)).max_completion_tokens == 30
    assert budget.reserve("q", cost(100, 100)).max_completion_tokens is None
    with pytest.raises(BudgetExceeded, match="budget of p per day"):
        budget.reserve("p", cost(100, 100))


def test_an_answer_is_stopped_once_it_outgrows_the_budget(make_budget: MakeBudget) -> None:
    reservation = make_budget(BudgetLimits(tokens_per_day=1000)).reserve("p", cost(100, None))
    assert reservation.max_completion_tokens == 900
    for n in range(0, 901, 10):
        reservation.note(n)
    with pytest.raises(BudgetExceeded):
        reservation.note(910)


def test_an_answer_may_outgrow_what_was_assumed_while_there_is_budget(
    make_budget: MakeBudget,
) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=20_000))
    with budget.reserve("p", cost(100, None)) as reservation:
        for n in range(0, 10_000, 100):
            reservation.note(n)
        assert held(budget) >= 10_000
    assert spent_today(budget).tokens == 100 + 9900


def test_two_growing_answers_never_pass_the_limit_together(make_budget: MakeBudget) -> None:
    budget, other = (make_budget(BudgetLimits(tokens_per_day=12_000)) for _ in range(2))
    running = [budget.reserve("p", cost(100, None)), other.reserve("p", cost(100, None))]
    counts = [0, 0]
    while running:
        for i, reservation in enumerate(list(running)):
            counts[i] += 7
            try:
                reservation.note(counts[i])
            except BudgetExceeded:
                running.remove(reservation)
                reservation.__exit__(None, None, None)
    assert spent_today(budget).tokens <= 12_000 + 2 * 7


def test_noting_writes_about_once_a_second(make_budget: MakeBudget, clock: FakeTime) -> None:
    budget = make_budget(BudgetLimits(tokens_per_day=100_000))
    budget.database = database = Counting(budget.database.path)
    reservation = budget.reserve("p", cost(100, 4000))
    for n in range(2000):  # for twenty seconds
        clock.now += 0.01
        reservation.note(n)
    database.close()
    assert database.n_transactions < 30


def test_a_locked_ledger_does_not_end_an_answer_within_its_reservation(
    make_budget: MakeBudget, path: Path
) -> None:
    reservation = make_budget(BudgetLimits(tokens_per_day=100_000)).reserve("p", cost(100, 4000))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for n in range(4000):
        reservation.note(n)
    blocker.close()


def test_money_without_a_price_is_refused_and_tokens_are_not(make_budget: MakeBudget) -> None:
    with pytest.raises(PriceUnknown, match="prices of p are not known"):
        make_budget(BudgetLimits(usd_per_month=5)).reserve("p", cost(prices=None))
    budget = make_budget(BudgetLimits(tokens_per_day=1000), q=BudgetLimits(usd_per_day=1))
    reservation = budget.reserve("p", cost(prices=None))
    assert reservation.settle(leg()).cost_usd is None
    assert spent_today(budget).tokens == 200


def test_a_free_machine_on_the_lan_needs_no_money(make_budget: MakeBudget) -> None:
    budget = make_budget(BudgetLimits(usd_per_day=0))
    assert budget.reserve("lan", cost(prices=FREE)).max_completion_tokens is None
    budget.check("lan", FREE)
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())
    with pytest.raises(BudgetExceeded):
        budget.check("p", PRICES)
