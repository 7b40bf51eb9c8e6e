"""A real ledger file and a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest

from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings

NOON = datetime(2026, 5, 30, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0


class FakeTime:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


MakeBudget: TypeAlias = Callable[..., Budget]


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def make_budget(path: Path, clock: FakeTime) -> Generator[MakeBudget]:
    """Budgets over the same file, as of several processes."""
    made: list[Budget] = []

    def make(total: BudgetLimits | None = None, **providers: BudgetLimits) -> Budget:
        settings = BudgetSettings(total=total or BudgetLimits(), providers=providers)
        made.append(Budget(Database(path, busy_timeout_s=0.05), settings, clock=clock))
        return made[-1]

    yield make
    for budget in made:
        budget.close()
