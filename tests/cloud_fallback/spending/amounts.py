"""Costs and answers to book."""

from __future__ import annotations

from datetime import date

from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import Amount
from spillover.cloud_fallback.spending.prices import Estimate, Prices
from spillover.runtime.events import Leg, WriterId

PRICES = Prices(input_usd=1, output_usd=10, priced_on=date(2026, 5, 1))
"""A prompt token costs 1000 nano-dollars, one of the answer 10 000."""


def cost(
    prompt: int = 100, completion: int | None = 100, prices: Prices | None = PRICES
) -> Estimate:
    return Estimate(prompt_tokens=prompt, max_completion_tokens=completion, prices=prices)


def leg(prompt: int = 100, completion: int = 100, cost_usd: float | None = None) -> Leg:
    return Leg(
        writer=WriterId(origin="cloud", model="m", provider="p"),
        prompt_tokens=prompt,
        completion_tokens=completion,
        duration_ms=1.0,
        cost_usd=cost_usd,
    )


def held(budget: Budget, provider: str = "p") -> int:
    found = (a for a in budget.allowances() if a.line.provider in (None, provider))
    return max((allowance.reserved for allowance in found), default=0)


def spent_today(budget: Budget, provider: str | None = None) -> Amount:
    """Settled since midnight UTC with *provider*, or with all."""
    lines = budget.statement(() if provider is None else (provider,))
    return next(a.spent for a in lines if (a.provider, a.period) == (provider, "day"))


def spend(budget: Budget, prompt: int, completion: int, provider: str = "p") -> None:
    budget.reserve(provider, cost(prompt, completion)).settle(leg(prompt, completion))
