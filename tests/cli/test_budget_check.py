"""`spillover doctor` shows what is spent of each limit."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.cloud_fallback.spending.prices import Estimate, Prices
from spillover.edge_server.commands.doctor.budget_check import check_budget
from spillover.edge_server.commands.doctor.checkup import Findings
from spillover.edge_server.config.settings import Settings
from spillover.runtime.events import Leg, WriterId

LIMITS = BudgetSettings(
    total=BudgetLimits(usd_per_day=0.5), providers={"claude": BudgetLimits(tokens_per_month=1000)}
)


def settings_of(folder: Path, budget: BudgetSettings = LIMITS) -> Settings:
    return Settings(cloud=CloudSettings(fallback="ask", data_dir=folder, budget=budget))


def found(settings: Settings) -> Findings:
    findings = Findings(python="3")
    check_budget(findings, settings)
    return findings


def spend(settings: Settings, prompt_tokens: int) -> None:
    budget = Budget.at(settings.cloud.ledger, settings.cloud.budget)
    prices = Prices(input_usd=100.0, output_usd=100.0, priced_on=date(2026, 11, 1))
    estimate = Estimate(prompt_tokens=10, max_completion_tokens=10, prices=prices)
    writer = WriterId(origin="cloud", model="m", provider="claude")
    leg = Leg(writer=writer, prompt_tokens=prompt_tokens, completion_tokens=0, duration_ms=1.0)
    budget.reserve("claude", estimate).settle(leg)
    budget.close()


def test_what_is_spent_is_shown_for_each_limit(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    spend(settings, 600)
    findings = found(settings)
    assert findings.spent == [
        "0.06 of 0.5 USD this day (all providers)",
        "600 of 1000 tokens this month (claude)",
    ]
    assert findings.problems == []


def test_a_spent_budget_is_a_note(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    spend(settings, 1200)
    (problem,) = found(settings).problems
    assert problem.what.startswith("the budget of claude per month is 1000 tokens and 1200 are")
    assert not problem.blocks


def test_a_record_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    settings.cloud.ledger.write_bytes(b"x" * 5000)
    (problem,) = found(settings).problems
    assert "it is damaged" in problem.what


def test_without_a_limit_nothing_is_shown_and_no_file_is_created(tmp_path: Path) -> None:
    unlimited = msgspec.structs.replace(settings_of(tmp_path), cloud=CloudSettings())
    assert found(unlimited) == Findings(python="3")
    assert found(settings_of(tmp_path)).spent[0] == "0 of 0.5 USD this day (all providers)"
    assert list(tmp_path.iterdir()) == []
