"""Whatever happens in whatever order: the limit holds, and nothing is negative or stuck."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spillover.cloud_fallback.errors import BudgetExceeded
from spillover.cloud_fallback.spending.budget import Budget, Reservation
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.ledger import RESERVATION_LIFE_S
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.cloud_fallback.spending.prices import Estimate, Prices
from spillover.runtime.events import Leg, WriterId

from .conftest import FakeTime

PRICES = Prices(input_usd=0.15, output_usd=0.6, priced_on=date(2026, 5, 1))
LIMITS = BudgetSettings(
    total=BudgetLimits(tokens_per_month=20_000, usd_per_month=0.01),
    providers={"a": BudgetLimits(tokens_per_month=9000)},
)
BIGGEST_EVENT = 40
CLOUD = WriterId(origin="cloud", model="m")


class BudgetMachine(RuleBasedStateMachine):
    """Two processes' budgets on one file, within one month."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeTime()
        path = Path(self.folder.name) / "ledger.sqlite3"
        self.budgets = [Budget(Database(path), LIMITS, clock=self.clock) for _ in range(2)]
        self.running: list[tuple[Reservation, int]] = []
        self.n_events_over = 0
        self.sent = 0

    def teardown(self) -> None:
        for budget in self.budgets:
            budget.close()
        self.folder.cleanup()

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.running) - 1))

    @rule(
        which=st.integers(0, 1),
        provider=st.sampled_from(["a", "b"]),
        prompt=st.integers(0, 3000),
        limit=st.none() | st.integers(1, 6000),
    )
    def reserve(self, which: int, provider: str, prompt: int, limit: int | None) -> None:
        cost = Estimate(prompt_tokens=prompt, max_completion_tokens=limit, prices=PRICES)
        try:
            reservation = self.budgets[which].reserve(provider, cost)
        except BudgetExceeded:
            return
        self.running.append((reservation, 0))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), n_events=st.integers(1, 80), size=st.integers(1, BIGGEST_EVENT))
    def stream(self, data: st.DataObject, n_events: int, size: int) -> None:
        index = self.pick(data)
        reservation, n = self.running[index]
        for _ in range(n_events):
            n += size
            try:
                reservation.note(n)
            except BudgetExceeded:
                self.n_events_over += 1
                del self.running[index]
                reservation.__exit__(None, None, None)
                return
        self.running[index] = (reservation, n)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        reservation, n = self.running.pop(self.pick(data))
        reservation.settle(
            Leg(
                writer=CLOUD,
                prompt_tokens=reservation.estimate.prompt_tokens,
                completion_tokens=n,
                duration_ms=1,
            )
        )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        reservation, n = self.running.pop(self.pick(data))
        if n:
            reservation.__exit__(None, None, None)
        else:
            reservation.release()

    @precondition(lambda self: self.running)
    @rule()
    def die(self) -> None:
        """All processes are killed; their reservations outlive them for a while."""
        self.running.clear()
        self.clock.now += RESERVATION_LIFE_S
        assert all(allowance.reserved == 0 for allowance in self.budgets[0].allowances())

    @invariant()
    def no_limit_is_passed_by_more_than_the_last_event_of_each_answer(self) -> None:
        over = self.n_events_over * BIGGEST_EVENT
        for allowance in self.budgets[1].allowances():
            assert min(allowance.spent, allowance.reserved) >= 0
            allowed = over if allowance.unit == "tokens" else over * PRICES.nano_usd(0, 1)
            assert allowance.left >= -allowed

    @invariant()
    def what_is_reserved_belongs_to_a_running_answer(self) -> None:
        if not self.running:
            assert all(allowance.reserved == 0 for allowance in self.budgets[0].allowances())


BudgetMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestBudgetMachine = BudgetMachine.TestCase
