"""What `spillover doctor` says of the budgets."""

from __future__ import annotations

from contextlib import closing

from spillover.cloud_fallback.errors import LedgerUnavailable
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import Room
from spillover.edge_server.commands.checkup import Findings
from spillover.edge_server.config.settings import Settings


def check_budget(findings: Findings, settings: Settings) -> None:
    """What is spent of each limit. Nothing is opened where there is no limit, and no file made."""
    budgets, path = settings.cloud.budget, settings.cloud.ledger
    if settings.cloud.fallback == "never" or budgets.is_unlimited or not path.exists():
        return
    with closing(Budget.at(path, budgets)) as budget:
        try:
            rooms = budget.report()
        except LedgerUnavailable as error:
            findings.add(f"no provider will be asked: {error}", "see docs/privacy.md", blocks=False)
            return
    findings.spent = [_shown(room) for room in rooms]
    for room in rooms:
        if room.left <= 0:
            findings.add(room.exceeded(), "see docs/privacy.md", blocks=False)


def _shown(room: Room) -> str:
    spent, limit = room.in_unit(room.spent + room.reserved), room.in_unit(room.limit)
    whose = room.provider or "all providers"
    return f"{spent:g} of {limit:g} {room.unit} this {room.period} ({whose})"
