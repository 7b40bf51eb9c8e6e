"""Which candidates are worth their price, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from spillover.quantize.evaluation.evaluate import Candidate

_ALIKE = 0.05
"""Share by which speeds may differ that count as one: two measurements of one model do. Of sizes a
tenth of it: metadata."""
MOST_DIVERGENCE = 0.05
"""Mean nats that a pick may lose: about what Q4_K_M loses of a model of some billion parameters."""


class Pick(Struct, frozen=True, kw_only=True):
    """The candidate to take, and why."""

    candidate: Candidate
    reason: str

    @property
    def name(self) -> str:
        """Its name, which another candidate may have, too."""
        return self.candidate.model.name


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
    """The candidate that loses least of those that are exact enough and as fast as any of these;
    the smallest instead if speed was not measured. The most exact one if none is exact enough."""
    exact = [one for one in candidates if one.loss.divergence <= most_divergence]
    if not exact:
        best = min(candidates, key=_loss)
        return Pick(
            candidate=best,
            reason=f"no candidate loses at most {most_divergence:g} nats: this one loses least",
        )
    if all(one.model.cost is not None for one in exact):
        fastest = max(map(tokens_per_s, exact))
        alike = [one for one in exact if tokens_per_s(one) >= fastest * (1 - _ALIKE)]
        why = "fastest with one stream"
    else:
        smallest = min(one.model.size_bytes for one in exact)
        alike = [one for one in exact if one.model.size_bytes <= smallest * (1 + _ALIKE / 10)]
        why = "smallest"
    best = min(alike, key=_loss)
    least = ", and of those about alike the one that loses least" if len(alike) > 1 else ""
    return Pick(
        candidate=best,
        reason=f"the {why} of those that lose at most {most_divergence:g} nats{least}",
    )


def _loss(candidate: Candidate) -> float:
    return candidate.loss.divergence


def tokens_per_s(candidate: Candidate) -> float:
    """Tokens per second of one stream."""
    assert candidate.model.cost is not None
    return candidate.model.cost.rates.decode_1
