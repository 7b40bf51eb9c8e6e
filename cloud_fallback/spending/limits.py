"""How much may be spent in a day or a month. Pure.

Days and months are those of UTC: the same for every process, wherever the device travels, and
those of the providers' bills.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from spillover.cloud_fallback.errors import BudgetExceeded
from spillover.cloud_fallback.spending.prices import NANO, Estimate, Usd, nano_usd

Unit: TypeAlias = Literal["USD", "tokens"]
Period: TypeAlias = Literal["day", "month"]
Tokens = Annotated[int, Meta(ge=0, le=10**15)]

PERIODS: tuple[Period, ...] = ("day", "month")


class BudgetLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that may be spent; None: no limit. Tokens are those of prompts and answers."""

    usd_per_day: Usd | None = None
    usd_per_month: Usd | None = None
    tokens_per_day: Tokens | None = None
    tokens_per_month: Tokens | None = None

    def of(self, period: Period) -> tuple[int | None, Tokens | None]:
        """The limits of *period*, in nano-dollars and in tokens."""
        usd = self.usd_per_day if period == "day" else self.usd_per_month
        tokens = self.tokens_per_day if period == "day" else self.tokens_per_month
        return (None if usd is None else nano_usd(usd)), tokens


class BudgetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of all providers together, and of single ones beside them."""

    total: BudgetLimits = field(default_factory=BudgetLimits)
    providers: dict[str, BudgetLimits] = field(default_factory=dict)

    def limits_of(self, provider: str | None) -> BudgetLimits:
        """The limits of *provider* alone; None stands for all providers together."""
        return self.total if provider is None else self.providers.get(provider, BudgetLimits())

    def limits_money(self, provider: str) -> bool:
        return any(
            limits.of(period)[0] is not None
            for limits in (self.total, self.limits_of(provider))
            for period in PERIODS
        )

    @property
    def is_unlimited(self) -> bool:
        return all(limits == BudgetLimits() for limits in (self.total, *self.providers.values()))


class Amount(Struct, frozen=True):
    """Money and tokens: two ways to count the same."""

    nano_usd: int = 0
    tokens: int = 0


class StatementLine(Struct, frozen=True, kw_only=True):
    """One provider's spending in one period; a limit of None: there is none."""

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

    def allowances(self) -> Generator[Allowance]:
        """One for each limit that is set."""
        if self.limit_nano_usd is not None:
            spent, reserved = self.spent.nano_usd, self.reserved.nano_usd
            yield Allowance(self, "USD", self.limit_nano_usd, spent, reserved)
        if self.limit_tokens is not None:
            spent, reserved = self.spent.tokens, self.reserved.tokens
            yield Allowance(self, "tokens", self.limit_tokens, spent, reserved)


class Allowance(Struct, frozen=True):
    """One limit and what is left of it; amounts in nano-dollars or tokens."""

    line: StatementLine
    unit: Unit
    limit: int
    spent: int
    reserved: int

    @property
    def left(self) -> int:
        return self.limit - self.spent - self.reserved

    @property
    def whose(self) -> str:
        return self.line.provider or "all providers"

    def in_unit(self, amount: int) -> float:
        """*amount* in dollars or tokens."""
        return amount / NANO if self.unit == "USD" else amount

    def completion_tokens(self, estimate: Estimate) -> int | None:
        """How long the answer may be; None: this limit does not bound it. Below 0: the prompt
        alone costs too much."""
        if self.unit == "tokens":
            return self.left - estimate.prompt_tokens
        if estimate.prices is None or estimate.prices.is_free:
            return None
        if self.left < estimate.nano_usd(0):
            return -1
        return estimate.prices.longest(estimate.prompt_tokens, self.left)

    def exceeded(self) -> BudgetExceeded:
        return BudgetExceeded(
            f"of {self.whose} per {self.line.period}",
            limit=self.in_unit(self.limit),
            spent=self.in_unit(self.spent + self.reserved),
            unit=self.unit,
            until=self.line.until,
        )


def tightest(
    lines: Iterable[StatementLine], estimate: Estimate
) -> tuple[Allowance | None, int | None]:
    """The limit that bounds the answer most, and to how many tokens; None: none does."""
    bounds = [
        (n, allowance)
        for line in lines
        for allowance in line.allowances()
        if (n := allowance.completion_tokens(estimate)) is not None
    ]
    if not bounds:
        return None, None
    n, allowance = min(bounds, key=lambda bound: bound[0])
    return allowance, n


def first_day(period: Period, now: float) -> str:
    """The first day of the *period* in which *now* lies, as 2026-05-31."""
    day = datetime.fromtimestamp(now, UTC).date()
    return (day if period == "day" else day.replace(day=1)).isoformat()


def end_of(period: Period, now: float) -> datetime:
    """When the *period* in which *now* lies ends."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
