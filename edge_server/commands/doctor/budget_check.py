"""What `spillover doctor` says about the budgets."""

from __future__ import annotations

from contextlib import closing

from spillover.cloud_fallback.errors import LedgerUnavailable
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import Allowance
from spillover.edge_server.commands.doctor.checkup import Findings
from spillover.edge_server.config.settings import Settings


def check_budget(findings: Findings, settings: Settings) -> None:
    """Add what is spent of each limit. Without a limit nothing is opened, and no file created."""
    budgets, path = settings.cloud.budget, settings.cloud.ledger
    stays = all(fallback == "never" for fallback in settings.fallbacks.values())
    if stays or budgets.is_unlimited:
        return
    with closing(Budget.at(path, budgets)) as budget:
        try:
            allowances = budget.allowances()
        except LedgerUnavailable as error:
            findings.add(f"no provider will be asked: {error}", "see docs/privacy.md", blocks=False)
            return
    findings.spent = [_shown(allowance) for allowance in allowances]
    for allowance in allowances:
        if allowance.left <= 0:
            findings.add(allowance.exceeded(), "see docs/privacy.md", blocks=False)


def _shown(allowance: Allowance) -> str:
    spent = allowance.in_unit(allowance.spent + allowance.reserved)
    limit, period = allowance.in_unit(allowance.limit), allowance.line.period
    return f"{spent:g} of {limit:g} {allowance.unit} this {period} ({allowance.whose})"
