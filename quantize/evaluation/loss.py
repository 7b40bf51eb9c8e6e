"""What a candidate loses against its reference, over a whole text."""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct

from spillover.quantize.divergence import Numbers, Positions
from spillover.quantize.errors import QuantizeError

_MOST_NATS = 700.0
"""exp() of more is no float."""


class Loss(Struct, frozen=True, kw_only=True):
    """Divergences in nats; every `…_error` is one standard error."""

    n_positions: int
    divergence: float
    """Mean."""
    divergence_error: float
    divergence_median: float
    divergence_99: float
    """At most this at 99 % of the positions."""
    divergence_most: float
    perplexity: float
    perplexity_of_reference: float
    perplexity_ratio: float
    perplexity_ratio_error: float
    same_top: float
    """Share of the positions at which both expect the same token most."""
    same_top_error: float
    rms_delta_p: float
    """Root of the mean square by which the right token's probability changed."""


def loss_of(positions: Positions, name: str) -> Loss:
    """Sum up the positions of the model *name*, of which there are at least two. Raises
    QuantizeError for a model that gives no probabilities."""
    found, more = positions.divergence, positions.surprise - positions.surprise_of_reference
    if not (np.isfinite(found).all() and np.abs(more).mean() < _MOST_NATS):
        raise QuantizeError(f"{name} gives probabilities that are no numbers: it is broken")
    ratio = math.exp(more.mean())
    n, same = len(found), float(positions.is_same_top.mean())
    return Loss(
        n_positions=n,
        divergence=float(found.mean()),
        divergence_error=_error(found),
        divergence_median=float(np.median(found)),
        divergence_99=float(np.quantile(found, 0.99)),
        divergence_most=float(found.max()),
        perplexity=math.exp(positions.surprise.mean()),
        perplexity_of_reference=math.exp(positions.surprise_of_reference.mean()),
        perplexity_ratio=ratio,
        # The same positions: what is hard for both does not blur the difference.
        perplexity_ratio_error=ratio * _error(more),
        same_top=same,
        same_top_error=math.sqrt(same * (1 - same) / (n - 1)),
        rms_delta_p=float(np.sqrt(np.square(positions.delta_p).mean())),
    )


def _error(values: Numbers) -> float:
    """The standard error of the mean."""
    return float(values.std() / math.sqrt(len(values) - 1))
