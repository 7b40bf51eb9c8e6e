"""Chooses one way of storing each of many things, so that all fit together and lose least.

A multiple-choice knapsack: the best choices for each number of bytes follow from the best ones
without the last thing, filled one thing after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

_STEPS = 8_192
"""Parts of the budget that are told apart."""


class Way(Struct, frozen=True, kw_only=True):
    """One way of storing a thing."""

    n_bytes: int
    loss: float
    """Losses of different things add up."""


def choose(things: Sequence[Sequence[Way]], most_bytes: int) -> list[int] | None:
    """The place of the chosen way of each thing; None if even the smallest ones do not fit."""
    smallest = [min(way.n_bytes for way in ways) for ways in things]
    room = most_bytes - sum(smallest)
    if room < 0:
        return None
    step = max(-(-room // _STEPS), 1)
    n_steps = room // step
    least = np.zeros(n_steps + 1)
    picks = []
    for ways, base in zip(things, smallest, strict=True):
        tried = np.full((len(ways), n_steps + 1), np.inf)
        for place, way in enumerate(ways):
            size = -(-(way.n_bytes - base) // step)
            tried[place, size:] = least[: max(n_steps + 1 - size, 0)] + way.loss
        picks.append(tried.argmin(0).astype(np.int16))
        least = tried.min(0)
    left, chosen = n_steps, list[int]()
    for ways, base, pick in zip(reversed(things), reversed(smallest), reversed(picks), strict=True):
        place = int(pick[left])
        left -= -(-(ways[place].n_bytes - base) // step)
        chosen.append(place)
    return chosen[::-1]
