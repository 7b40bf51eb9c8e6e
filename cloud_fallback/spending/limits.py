"""How much may be spent in a day or a month. Pure.

Days and months are those of UTC: the same for every process and on every journey, and those of
the providers' bills.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from spillover.cloud_fallback.errors import BudgetExceeded
from spillover.cloud_fallback.spending.estimate import Estimate
from spillover.cloud_fallback.spending.prices import NANO, Usd

Unit: TypeAlias = Literal["USD", "tokens"]
Period: TypeAlias = Literal["day", "month"]
Tokens = Annotated[int, Meta(ge=0, le=10**15)]

PERIODS: tuple[Period, ...] = ("day", "month")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Most that may be spent; None: no limit. Tokens are those of prompts and answers."""

    usd_per_day: Usd | None = None
    usd_per_month: Usd | None = None
    tokens_per_day: Tokens | None = None
    tokens_per_month: Tokens | None = None

    def of(self, period: Period) -> Generator[tuple[Unit, int]]:
        """The limits of *period* that are set, in nano-dollars and tokens."""
        usd = self.usd_per_day if period == "day" else self.usd_per_month
        tokens = self.tokens_per_day if period == "day" else self.tokens_per_month
        if usd is not None:
            yield "USD", round(usd * NANO)
        if tokens is not None:
            yield "tokens", tokens


class BudgetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of all providers together, and of single ones beside them."""

    total: Limits = field(default_factory=Limits)
    providers: dict[str, Limits] = field(default_factory=dict)

    def scopes(self, provider: str) -> Generator[tuple[str | None, Limits]]:
        """The limits that hold for *provider*; None stands for all providers."""
        yield None, self.total
        if provider in self.providers:
            yield provider, self.providers[provider]

    def limits_money(self, provider: str) -> bool:
        return any(
            unit == "USD"
            for _, limits in self.scopes(provider)
            for period in PERIODS
            for unit, _ in limits.of(period)
        )

    @property
    def is_unlimited(self) -> bool:
        return all(limits == Limits() for limits in (self.total, *self.providers.values()))


class Room(Struct, frozen=True, kw_only=True):
    """One limit and what is left of it; amounts in nano-dollars or tokens."""

    provider: str | None
    period: Period
    unit: Unit
    limit: int
    spent: int
    reserved: int
    until: datetime
    """When the period ends."""

    @property
    def left(self) -> int:
        return self.limit - self.spent - self.reserved

    @property
    def name(self) -> str:
        return f"of {self.provider or 'all providers'} per {self.period}"

    def in_unit(self, amount: int) -> float:
        """*amount* in dollars or tokens."""
        return amount / NANO if self.unit == "USD" else amount

    def completion_tokens(self, estimate: Estimate) -> int | None:
        """How long the answer may be; None: this limit does not bound it. Below 0: the prompt
        alone is too dear."""
        if self.unit == "tokens":
            return self.left - estimate.prompt_tokens
        if estimate.prices is None or estimate.prices.is_free:
            return None
        if self.left < estimate.nano_usd(0):
            return -1
        return estimate.prices.longest(estimate.prompt_tokens, self.left)

    def exceeded(self) -> BudgetExceeded:
        return BudgetExceeded(
            self.name,
            limit=self.in_unit(self.limit),
            spent=self.in_unit(self.spent + self.reserved),
            unit=self.unit,
            until=self.until,
        )


def tightest(rooms: list[Room], estimate: Estimate) -> tuple[Room | None, int | None]:
    """The limit that bounds the answer most, and to how many tokens; None: none does."""
    bounds = [(n, room) for room in rooms if (n := room.completion_tokens(estimate)) is not None]
    if not bounds:
        return None, None
    n, room = min(bounds, key=lambda bound: bound[0])
    return room, n


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
