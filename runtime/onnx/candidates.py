"""Which tokens may be drawn: the filters of llama.cpp's sampler chain on numpy arrays.

Each filter takes candidates and returns fewer. None sorts a whole vocabulary: only the upper end of
some score is needed, which largest() finds without sorting.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.backend import Logits
from spillover.runtime.masked_logits import all_tokens

Ids: TypeAlias = npt.NDArray[np.intp]

_N_BLOCKED = 4096
"""Longer rows are searched in blocks."""

_BLOCK = 64
_FIRST_LOOK = 256
"""How many of the best to try first when the number needed is unknown."""


class Candidates(Struct, frozen=True):
    """Token ids (n,) and their logits (n,)."""

    ids: Ids
    logits: Logits
    is_sorted: bool
    """Likeliest first."""


def everything(logits: Logits) -> Candidates:
    """All tokens, in order of their ids."""
    return Candidates(all_tokens(len(logits)), logits, False)


def largest(scores: Logits, n: int) -> Ids:
    """Where the *n* largest values are, largest first."""
    n = min(n, len(scores))
    some = _upper_end(scores, n)
    return some[(-scores[some]).argsort(kind="stable")[:n]]


def _upper_end(scores: Logits, n: int) -> Ids:
    """Where the *n* largest values are, and perhaps some more, in order of position."""
    n_blocks = len(scores) // _BLOCK
    if len(scores) <= _N_BLOCKED or n > n_blocks // 4:
        if n == len(scores):
            return np.arange(n)
        return np.sort(np.argpartition(scores, len(scores) - n)[len(scores) - n :])
    # There are n values at least as large as the n-th largest of the blocks' maxima. A block is a
    # column, so that those come from few long vector operations: 5x faster than a partition of all.
    best = np.maximum.reduce(scores[: n_blocks * _BLOCK].reshape(_BLOCK, n_blocks))
    best.partition(n_blocks - n)
    found: Ids = (scores >= best[n_blocks - n]).nonzero()[0]
    return found


def softmax(logits: Logits) -> Logits:
    weights: Logits = np.exp(logits - logits.max())
    weights /= weights.sum(dtype=np.float64)
    return weights


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The *k* likeliest."""
    if candidates.is_sorted:
        return _first(candidates, k)
    return _take(candidates, largest(candidates.logits, k), True)


def typical(candidates: Candidates, p: float) -> Candidates:
    """The smallest set with more than the share *p* whose surprisal is nearest to the entropy
    (Meister et al., 2022)."""
    probabilities = softmax(candidates.logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = np.nansum(probabilities * surprise)
    kept = _share(-np.abs(surprise - entropy), probabilities, p, inclusive=False)
    return _take(candidates, kept, False)


def top_p(candidates: Candidates, p: float) -> Candidates:
    """The smallest set of the likeliest tokens with at least the share *p* (Holtzman et al.,
    2019)."""
    if candidates.is_sorted:
        cumulated = np.cumsum(np.exp(candidates.logits - candidates.logits[0]), dtype=np.float64)
        return _first(candidates, int(cumulated.searchsorted(p * cumulated[-1])) + 1)
    probabilities = softmax(candidates.logits)
    return _take(candidates, _share(candidates.logits, probabilities, p, inclusive=True), True)


def min_p(candidates: Candidates, p: float) -> Candidates:
    """Those at least *p* times as likely as the likeliest."""
    below_best = np.float32(math.log(p))
    if candidates.is_sorted:
        kept = candidates.logits >= candidates.logits[0] + below_best
        return _first(candidates, int(np.count_nonzero(kept)))
    kept = candidates.logits >= candidates.logits.max() + below_best
    return Candidates(candidates.ids[kept], candidates.logits[kept], False)


def without_top_choices(candidates: Candidates, threshold: float) -> Candidates:
    """Drop the likeliest, except the least likely of those with at least *threshold*:
    "exclude top choices" (XTC)."""
    probabilities = softmax(candidates.logits)
    above = np.flatnonzero(probabilities >= threshold)
    if len(above) < 2:
        return candidates
    kept = np.ones(len(probabilities), dtype=np.bool_)
    kept[above] = False
    kept[above[np.argmin(probabilities[above])]] = True
    return Candidates(candidates.ids[kept], candidates.logits[kept], candidates.is_sorted)


def draw_from_few(
    candidates: Candidates, *, top_p: float, min_p: float, temperature: float, chance: float
) -> int:
    """What top_p, min_p and draw do with some dozens of sorted candidates, in plain Python: numpy's
    overhead alone would take longer."""
    logits = candidates.logits.tolist()
    weights = [math.exp(logit - logits[0]) for logit in logits]
    n = len(weights)
    if top_p < 1:
        cumulated = list(accumulate(weights))
        n = min(bisect_left(cumulated, top_p * cumulated[-1]) + 1, n)
    while weights[n - 1] < min_p:
        n -= 1
    shares = list(accumulate(math.exp((x - logits[0]) / temperature) for x in logits[:n]))
    return int(candidates.ids[min(bisect_left(shares, shares[-1] * chance), n - 1)])


def draw(candidates: Candidates, temperature: float, chance: float) -> int:
    """The token at *chance*, from 0 to 1, in the cumulative distribution."""
    scaled = candidates.logits / np.float32(temperature)
    best = scaled[0] if candidates.is_sorted else scaled.max()
    cumulated = np.cumsum(np.exp(scaled - best), dtype=np.float64)
    at = int(cumulated.searchsorted(cumulated[-1] * chance))
    return int(candidates.ids[min(at, len(cumulated) - 1)])


def _first(candidates: Candidates, n: int) -> Candidates:
    return Candidates(candidates.ids[:n], candidates.logits[:n], candidates.is_sorted)


def _take(candidates: Candidates, kept: Ids, is_sorted: bool) -> Candidates:
    return Candidates(candidates.ids[kept], candidates.logits[kept], is_sorted)


def _share(scores: Logits, probabilities: Logits, p: float, *, inclusive: bool) -> Ids:
    """The best by *scores* that together have the share *p* of the probability."""
    n = min(_FIRST_LOOK, len(scores))
    while True:
        best = largest(scores, n)
        needed = _n_for(probabilities[best], p, inclusive=inclusive)
        if needed < n or n == len(scores):
            return best[:needed]
        n = min(8 * n, len(scores))


def _n_for(probabilities: Logits, p: float, *, inclusive: bool) -> int:
    """How many of the first together have the share *p*; all when the sum is smaller."""
    cumulated = np.cumsum(probabilities, dtype=np.float64)
    at = int(cumulated.searchsorted(p, "left" if inclusive else "right"))
    return min(at + 1, len(probabilities))
