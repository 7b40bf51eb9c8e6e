"""Which candidates are worth their price, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from spillover.quantize.evaluation.evaluate import Candidate

MOST_DIVERGENCE = 0.05
"""Mean nats that a pick may lose: about what Q4_K_M loses of a model of some billion parameters."""


class Pick(Struct, frozen=True, kw_only=True):
    """The candidate to take, and why."""

    name: str
    reason: str


def undominated(prices: Sequence[float], losses: Sequence[float]) -> list[bool]:
    """Of each point whether no other one is as cheap and as exact, and better in one of both."""
    points = list(zip(prices, losses, strict=True))
    return [
        not any(
            other[0] <= price and other[1] <= loss and other != (price, loss) for other in points
        )
        for price, loss in points
    ]


def pick(candidates: Sequence[Candidate], most_divergence: float = MOST_DIVERGENCE) -> Pick:
    """The fastest candidate that is exact enough; the smallest one if speed was not measured, and
    the most exact one if none is."""
    exact = [one for one in candidates if one.loss.divergence <= most_divergence]
    if not exact:
        best = min(candidates, key=lambda one: one.loss.divergence)
        return Pick(
            name=best.model.name,
            reason=f"no candidate loses at most {most_divergence:g} nats: this one loses least",
        )
    if all(one.model.cost is not None for one in exact):
        best = max(exact, key=tokens_per_s)
        why = "fastest with one stream"
    else:
        best = min(exact, key=lambda one: one.model.size_bytes)
        why = "smallest"
    return Pick(
        name=best.model.name,
        reason=f"the {why} of those that lose at most {most_divergence:g} nats",
    )


def tokens_per_s(candidate: Candidate) -> float:
    """Tokens per second of one stream."""
    assert candidate.model.cost is not None
    return candidate.model.cost.rates.decode_1
