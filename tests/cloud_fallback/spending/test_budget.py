"""The cloud costs no more than its owner allows."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Generator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from spillover.cloud_fallback.errors import BudgetExceeded, LedgerUnavailable, PriceUnknown
from spillover.cloud_fallback.spending.budget import MIN_COMPLETION_TOKENS, Budget, Reservation
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.estimate import Estimate
from spillover.cloud_fallback.spending.ledger import RESERVATION_LIFE_S, Amount
from spillover.cloud_fallback.spending.limits import BudgetSettings, Limits, end_of
from spillover.cloud_fallback.spending.prices import FREE, Prices
from spillover.runtime.events import Leg, Writer

from .conftest import DAY_S, NOON, FakeTime, MakeBudget

PRICES = Prices(input_usd=1, output_usd=10, priced_on=date(2026, 5, 1))
"""A prompt token costs 1000 nano-dollars, one of the answer 10 000."""


def cost(
    prompt: int = 100, completion: int | None = 100, prices: Prices | None = PRICES
) -> Estimate:
    return Estimate(prompt_tokens=prompt, max_completion_tokens=completion, prices=prices)


def leg(prompt: int = 100, completion: int = 100, cost_usd: float | None = None) -> Leg:
    return Leg(
        writer=Writer(origin="cloud", model="m", provider="p"),
        prompt_tokens=prompt,
        completion_tokens=completion,
        duration_ms=1.0,
        cost_usd=cost_usd,
    )


def held(budget: Budget, provider: str = "p") -> int:
    return max((room.reserved for room in budget.report(provider)), default=0)


def spend(budget: Budget, prompt: int, completion: int, provider: str = "p") -> None:
    budget.reserve(provider, cost(prompt, completion)).settle(leg(prompt, completion))


def test_a_settled_answer_is_booked_and_its_leg_carries_the_cost(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(usd_per_day=1))
    reservation = budget.reserve("p", cost(100, 1000))
    assert held(budget) == 100 * 1000 + 1000 * 10_000
    assert reservation.settle(leg(100, 50)).cost_usd == pytest.approx(0.0006)
    assert held(budget) == 0
    assert budget.spent_today() == Amount(600_000, 150)


def test_what_the_provider_says_it_cost_is_believed(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(usd_per_day=1))
    budget.reserve("p", cost()).settle(leg(cost_usd=0.5))
    assert budget.spent_today().nano_usd == 500_000_000


def test_a_request_that_was_never_sent_costs_nothing(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(tokens_per_day=1000))
    budget.reserve("p", cost()).release()
    with budget.reserve("p", cost()):
        pass
    assert (held(budget), budget.spent_today()) == (0, Amount())


def test_an_answer_that_broke_off_is_booked_by_what_was_noted(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(tokens_per_day=1000))
    with budget.reserve("p", cost(100, 500)) as reservation:
        reservation.note(0)
        reservation.note(70)
    assert budget.spent_today().tokens == 170


def test_a_reservation_ends_once(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(tokens_per_day=1000))
    with budget.reserve("p", cost()) as reservation:
        reservation.settle(leg(100, 20))
        reservation.settle(leg(100, 20))
        reservation.release()
    assert budget.spent_today().tokens == 120


def test_a_budget_that_is_spent_is_refused_with_limit_spent_and_until(
    make_budget: MakeBudget,
) -> None:
    budget = make_budget(Limits(usd_per_day=0.01))
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


def test_what_is_reserved_is_not_there_for_others(make_budget: MakeBudget) -> None:
    budget, other = make_budget(Limits(tokens_per_day=400)), make_budget(Limits(tokens_per_day=400))
    first = budget.reserve("p", cost(100, 100))
    second = other.reserve("p", cost(100, 100))
    with pytest.raises(BudgetExceeded):
        other.reserve("p", cost(100, 100))
    first.release()
    budget.reserve("p", cost(100, 100))
    second.release()


@pytest.mark.parametrize("limits", [Limits(tokens_per_day=150), Limits(usd_per_day=0.0006)])
def test_a_budget_that_covers_only_part_shortens_the_answer(
    make_budget: MakeBudget, limits: Limits
) -> None:
    reservation = make_budget(limits).reserve("p", cost(100, 100))
    assert reservation.max_completion_tokens == 50


@pytest.mark.parametrize(("left", "fits"), [(MIN_COMPLETION_TOKENS, True), (15, False)])
def test_an_answer_of_a_few_words_is_not_worth_sending(
    make_budget: MakeBudget, left: int, fits: bool
) -> None:
    budget = make_budget(Limits(tokens_per_day=100 + left))
    if fits:
        assert budget.reserve("p", cost(100, None)).max_completion_tokens == left
    else:
        with pytest.raises(BudgetExceeded):
            budget.reserve("p", cost(100, None))


def test_three_last_tokens_of_a_limit_may_still_be_asked_for(make_budget: MakeBudget) -> None:
    reservation = make_budget(Limits(tokens_per_day=103)).reserve("p", cost(100, 3))
    assert reservation.max_completion_tokens is None


def test_the_tightest_of_all_limits_holds(make_budget: MakeBudget) -> None:
    budget = make_budget(
        Limits(usd_per_day=1, tokens_per_month=10_000), p=Limits(tokens_per_day=130)
    )
    assert budget.reserve("p", cost(100, 100)).max_completion_tokens == 30
    assert budget.reserve("q", cost(100, 100)).max_completion_tokens is None
    with pytest.raises(BudgetExceeded, match="budget of p per day"):
        budget.reserve("p", cost(100, 100))


def test_an_answer_is_stopped_once_it_outgrows_the_budget(make_budget: MakeBudget) -> None:
    reservation = make_budget(Limits(tokens_per_day=1000)).reserve("p", cost(100, None))
    assert reservation.max_completion_tokens == 900
    for n in range(0, 901, 10):
        reservation.note(n)
    with pytest.raises(BudgetExceeded):
        reservation.note(910)


def test_an_answer_may_outgrow_what_was_assumed_while_there_is_budget(
    make_budget: MakeBudget,
) -> None:
    budget = make_budget(Limits(tokens_per_day=20_000))
    with budget.reserve("p", cost(100, None)) as reservation:
        for n in range(0, 10_000, 100):
            reservation.note(n)
        assert held(budget) >= 10_000
    assert budget.spent_today().tokens == 100 + 9900


def test_two_growing_answers_never_pass_the_limit_together(make_budget: MakeBudget) -> None:
    budget, other = (make_budget(Limits(tokens_per_day=12_000)) for _ in range(2))
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
    assert budget.spent_today().tokens <= 12_000 + 2 * 7


def test_noting_rarely_writes(make_budget: MakeBudget, path: Path) -> None:
    budget = make_budget(Limits(tokens_per_day=100_000))
    reservation = budget.reserve("p", cost(100, 4000))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for n in range(4000):
        reservation.note(n)
    blocker.close()


def test_money_without_a_price_is_refused_and_tokens_are_not(make_budget: MakeBudget) -> None:
    with pytest.raises(PriceUnknown, match="prices of p are not known"):
        make_budget(Limits(usd_per_month=5)).reserve("p", cost(prices=None))
    budget = make_budget(Limits(tokens_per_day=1000), q=Limits(usd_per_day=1))
    reservation = budget.reserve("p", cost(prices=None))
    assert reservation.settle(leg()).cost_usd is None
    assert budget.spent_today().tokens == 200


def test_the_free_machine_next_door_needs_no_money(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(usd_per_day=0))
    assert budget.reserve("lan", cost(prices=FREE)).max_completion_tokens is None
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())


@pytest.mark.parametrize(
    ("limits", "passes_s"),
    [(Limits(tokens_per_day=150), DAY_S / 2), (Limits(tokens_per_month=150), 1.5 * DAY_S)],
)
def test_a_new_day_or_month_of_utc_brings_a_new_budget(
    make_budget: MakeBudget, clock: FakeTime, limits: Limits, passes_s: float
) -> None:
    budget = make_budget(limits)
    spend(budget, 100, 50)
    clock.now += passes_s - 1
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())
    clock.now += 1
    budget.reserve("p", cost()).release()


def test_a_month_holds_what_its_days_spent(make_budget: MakeBudget, clock: FakeTime) -> None:
    budget = make_budget(Limits(tokens_per_month=300))
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
    budget = make_budget(Limits(tokens_per_day=150))
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
    budget = make_budget(Limits(tokens_per_day=150))
    clock.now += 5 * DAY_S
    spend(budget, 100, 50)
    clock.now -= 5 * DAY_S
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())


def test_a_clock_of_1970_closes_the_budget(make_budget: MakeBudget, clock: FakeTime) -> None:
    budget = make_budget(Limits(tokens_per_day=150))
    budget.report()
    clock.now = 100.0
    with pytest.raises(LedgerUnavailable, match="clock says 1970-01-01"):
        budget.reserve("p", cost())


def test_a_clock_that_was_once_in_the_far_future_does_not_close_it_for_years(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(Limits(tokens_per_day=150))
    clock.now += 20 * 365 * DAY_S
    spend(budget, 100, 50)
    clock.now = NOON
    budget.reserve("p", cost())


def test_a_reservation_of_a_dead_process_expires_and_its_noted_part_is_booked(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    dead, budget = (make_budget(Limits(tokens_per_day=1000)) for _ in range(2))
    dead.reserve("p", cost(100, 900)).note(0)
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost())
    clock.now += RESERVATION_LIFE_S
    budget.reserve("p", cost(100, 300)).release()
    assert budget.spent_today().tokens == 100


@pytest.mark.parametrize("jump_s", [8 * 3600.0, -8 * 3600.0])
def test_an_answer_that_slept_through_its_expiry_is_booked_once(
    make_budget: MakeBudget, clock: FakeTime, jump_s: float
) -> None:
    budget = make_budget(Limits(tokens_per_month=1000))
    reservation = budget.reserve("p", cost(100, 500))
    clock.now += RESERVATION_LIFE_S / 2
    reservation.note(50)
    clock.now += jump_s
    assert budget.report("p")[0].reserved == 0
    reservation.note(60)
    reservation.settle(leg(100, 60))
    assert budget.report("p")[0].spent == 160


def test_an_expired_reservation_that_goes_on_is_held_again(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(Limits(tokens_per_month=1000))
    reservation = budget.reserve("p", cost(100, 500))
    clock.now += 8 * 3600.0
    budget.report()
    reservation.note(10)
    (room,) = budget.report("p")
    assert room.spent + room.reserved == 600


def test_its_money_is_held_again_too(make_budget: MakeBudget, clock: FakeTime) -> None:
    budget = make_budget(Limits(usd_per_month=1))
    reservation = budget.reserve("p", cost(100, 500))
    clock.now += 8 * 3600.0
    budget.report()
    reservation.note(10)
    (room,) = budget.report("p")
    assert room.spent + room.reserved == 100 * 1000 + 500 * 10_000


def test_a_prompt_that_is_too_dear_is_refused_even_if_answers_are_free(
    make_budget: MakeBudget,
) -> None:
    prices = Prices(input_usd=1, output_usd=0, priced_on=date(2026, 5, 1))
    budget = make_budget(Limits(usd_per_day=0.0001))
    assert budget.reserve("p", cost(100, 100, prices)).max_completion_tokens is None
    with pytest.raises(BudgetExceeded):
        budget.reserve("p", cost(100, 100, prices))


def test_a_long_answer_keeps_its_reservation_alive(
    make_budget: MakeBudget, clock: FakeTime
) -> None:
    budget = make_budget(Limits(tokens_per_day=1000))
    reservation = budget.reserve("p", cost(100, 900))
    for n in range(100):
        clock.now += 60
        reservation.note(n)
    assert held(budget) == 1000


def test_all_limits_are_reported(make_budget: MakeBudget) -> None:
    budget = make_budget(Limits(usd_per_month=5), p=Limits(tokens_per_day=7), q=Limits())
    assert [(r.provider, r.period, r.unit) for r in budget.report()] == [
        (None, "month", "USD"),
        ("p", "day", "tokens"),
    ]


# What happens when the file cannot be used.


LIMITED = Limits(tokens_per_day=1000)


def refused(budget: Budget) -> str:
    with pytest.raises(LedgerUnavailable) as caught:
        budget.reserve("p", cost())
    return str(caught.value)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"x" * 4000])
def test_a_damaged_file_closes_the_budget_and_is_left_alone(
    make_budget: MakeBudget, path: Path, content: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert "damaged" in refused(make_budget(LIMITED))
    assert path.read_bytes() == content


def test_a_file_that_was_repaired_is_used_without_a_restart(
    make_budget: MakeBudget, path: Path
) -> None:
    budget = make_budget(LIMITED)
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    refused(budget)
    path.unlink()
    budget.reserve("p", cost())


def test_a_locked_file_closes_the_budget_after_a_bounded_wait(
    make_budget: MakeBudget, path: Path
) -> None:
    budget = make_budget(LIMITED)
    running = budget.reserve("p", cost(100, 100))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert "another program holds it" in refused(budget)
    with pytest.raises(LedgerUnavailable):
        running.note(101)
    blocker.close()
    running.note(101)


def test_an_answer_that_cannot_be_settled_is_not_failed_and_is_booked_later(
    make_budget: MakeBudget, path: Path, clock: FakeTime
) -> None:
    budget = make_budget(LIMITED)
    reservation = budget.reserve("p", cost(100, 100))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert reservation.settle(leg(100, 20)).cost_usd is not None
    blocker.close()
    assert held(budget) == 200
    clock.now += RESERVATION_LIFE_S
    assert budget.report("p")[0].spent == 100


@pytest.fixture
def as_a_user() -> Generator[None]:
    """Rights on files do not bind root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def readonly_folder() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp())
    ledger = Database(folder / "ledger.sqlite3")
    with ledger.transaction():
        pass
    ledger.close()
    folder.chmod(0o555)
    (folder / "ledger.sqlite3").chmod(0o444)
    yield folder
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_a_readonly_file_closes_the_budget(readonly_folder: Path, as_a_user: None) -> None:
    budget = Budget.at(readonly_folder / "ledger.sqlite3", BudgetSettings(total=LIMITED))
    assert "cannot be" in refused(budget)


def test_a_folder_in_place_of_the_file_closes_the_budget(
    make_budget: MakeBudget, path: Path
) -> None:
    path.mkdir(parents=True)
    refused(make_budget(LIMITED))


def test_a_ledger_of_a_newer_version_is_not_touched(make_budget: MakeBudget, path: Path) -> None:
    make_budget(LIMITED).report()
    newer = sqlite3.connect(path, isolation_level=None)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert "newer version" in refused(make_budget(LIMITED))


def test_without_limits_a_damaged_file_only_costs_the_record(
    make_budget: MakeBudget, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    with make_budget().reserve("p", cost()) as reservation:
        reservation.note(10_000)
        reservation.settle(leg())
    assert "is not recorded" in caplog.text


def test_without_limits_what_is_spent_is_recorded_all_the_same(make_budget: MakeBudget) -> None:
    budget = make_budget()
    spend(budget, 100, 100)
    assert budget.spent_today("p").tokens == 200


def test_only_its_owner_can_read_the_file(make_budget: MakeBudget, path: Path) -> None:
    budget = make_budget(LIMITED)
    running: Reservation = budget.reserve("p", cost())
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}
    running.release()
