"""What was spent, what is set aside and what may be spent, to be looked at."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from sqlite3 import Connection

from msgspec import Struct

from spillover.cloud_fallback.spending import ledger
from spillover.cloud_fallback.spending.ledger import Amount
from spillover.cloud_fallback.spending.limits import (
    PERIODS,
    BudgetSettings,
    Limits,
    Period,
    end_of,
)


class Line(Struct, frozen=True, kw_only=True):
    """One provider in one period; limits None: there is none."""

    provider: str | None
    """None: all together."""
    period: Period
    until: datetime
    """When the period ends."""
    spent: Amount
    reserved: Amount
    """Set aside for answers under way; the same in every period."""
    limit_nano_usd: int | None
    limit_tokens: int | None


def statement_of(
    connection: Connection | None, settings: BudgetSettings, providers: Iterable[str], now: float
) -> list[Line]:
    """All together first, then each of *providers* and whoever else was paid this month.
    *connection* None: nothing was ever spent."""
    paid = [] if connection is None else ledger.names(connection, now)
    names = list(dict.fromkeys((*providers, *settings.providers, *paid)))
    return [
        _line(connection, settings, name, period, now)
        for name in (None, *names)
        for period in PERIODS
    ]


def _line(
    connection: Connection | None,
    settings: BudgetSettings,
    name: str | None,
    period: Period,
    now: float,
) -> Line:
    limits = settings.total if name is None else settings.providers.get(name, Limits())
    limit = dict(limits.of(period))
    nothing = Amount()
    return Line(
        provider=name,
        period=period,
        until=end_of(period, now),
        spent=ledger.spent_amount(connection, name, period, now) if connection else nothing,
        reserved=ledger.held_amount(connection, name) if connection else nothing,
        limit_nano_usd=limit.get("USD"),
        limit_tokens=limit.get("tokens"),
    )
