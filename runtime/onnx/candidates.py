"""Which tokens may be drawn: the filters of llama.cpp's sampler chain on numpy arrays.

Each filter takes candidates and gives fewer. None sorts a whole vocabulary: what is wanted of it
is always the upper end of some score, which largest() finds without.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.backend import Logits

Ids: TypeAlias = npt.NDArray[np.intp]

_N_BLOCKED = 4096
"""A longer row is searched by blocks."""

_BLOCK = 64
_FIRST_LOOK = 256
"""So many of the best are tried first where the number that is needed is not known."""


class Candidates(Struct, frozen=True):
    """Token ids (n,) and their logits (n,)."""

    ids: Ids
    logits: Logits
    is_sorted: bool
    """Likeliest first."""


def everything(logits: Logits) -> Candidates:
    """All tokens, in the order of their ids."""
    return Candidates(np.arange(len(logits)), logits, False)


def largest(scores: Logits, n: int) -> Ids:
    """Where the *n* largest values are, largest first."""
    n = min(n, len(scores))
    some = _upper_end(scores, n)
    return some[np.argsort(-scores[some], kind="stable")][:n]


def _upper_end(scores: Logits, n: int) -> Ids:
    """Where the *n* largest values are, and perhaps some more, in the order of their places."""
    n_blocks = len(scores) // _BLOCK
    if len(scores) <= _N_BLOCKED or n > n_blocks // 4:
        if n == len(scores):
            return np.arange(n)
        return np.sort(np.argpartition(scores, len(scores) - n)[len(scores) - n :])
    # The n best blocks hold the n best values. A block is a column, so that their maxima come
    # from few long vector operations: 4x faster than a partition of the whole row.
    whole = n_blocks * _BLOCK
    table = scores[:whole].reshape(_BLOCK, n_blocks)
    best = table.max(axis=0)
    columns = np.argpartition(best, n_blocks - n)[n_blocks - n :]
    threshold = best[columns].min()
    rows, picks = np.nonzero(table[:, columns] >= threshold)
    rest = whole + np.flatnonzero(scores[whole:] >= threshold)
    return np.concatenate([rows * n_blocks + columns[picks], rest])


def softmax(logits: Logits) -> Logits:
    weights: Logits = np.exp(logits - logits.max())
    weights /= weights.sum(dtype=np.float64)
    return weights


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The *k* likeliest."""
    if candidates.is_sorted:
        return Candidates(candidates.ids[:k], candidates.logits[:k], True)
    return _take(candidates, largest(candidates.logits, k), True)


def typical(candidates: Candidates, p: float) -> Candidates:
    """The smallest set with more than the share *p* whose surprise is nearest to the expected
    one (Meister et al., 2022)."""
    probabilities = softmax(candidates.logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = np.nansum(probabilities * surprise)
    kept = _share(-np.abs(surprise - entropy), probabilities, p, inclusive=False)
    return _take(candidates, kept, False)


def top_p(candidates: Candidates, p: float) -> Candidates:
    """The smallest set of the likeliest with at least the share *p* (Holtzman et al., 2019)."""
    probabilities = softmax(candidates.logits)
    if candidates.is_sorted:
        n = _n_for(probabilities, p, inclusive=True)
        return Candidates(candidates.ids[:n], candidates.logits[:n], True)
    return _take(candidates, _share(candidates.logits, probabilities, p, inclusive=True), True)


def min_p(candidates: Candidates, p: float) -> Candidates:
    """Those at least *p* times as likely as the likeliest."""
    kept = candidates.logits >= candidates.logits.max() + np.float32(np.log(np.float32(p)))
    return Candidates(candidates.ids[kept], candidates.logits[kept], candidates.is_sorted)


def without_top_choices(candidates: Candidates, threshold: float) -> Candidates:
    """Without the likeliest, but for the least likely of those with at least *threshold*:
    "exclude top choices" (XTC)."""
    probabilities = softmax(candidates.logits)
    above = np.flatnonzero(probabilities >= threshold)
    if len(above) < 2:
        return candidates
    kept = np.ones(len(probabilities), dtype=np.bool_)
    kept[above] = False
    kept[above[np.argmin(probabilities[above])]] = True
    return Candidates(candidates.ids[kept], candidates.logits[kept], candidates.is_sorted)


def draw(candidates: Candidates, temperature: float, chance: float) -> int:
    """The token at *chance*, from 0 to 1, of the distribution."""
    scaled = candidates.logits / np.float32(temperature)
    cumulated = np.cumsum(np.exp(scaled - scaled.max()), dtype=np.float64)
    at = int(np.searchsorted(cumulated, cumulated[-1] * chance))
    return int(candidates.ids[min(at, len(cumulated) - 1)])


def _take(candidates: Candidates, kept: Ids, is_sorted: bool) -> Candidates:
    return Candidates(candidates.ids[kept], candidates.logits[kept], is_sorted)


def _share(scores: Logits, probabilities: Logits, p: float, *, inclusive: bool) -> Ids:
    """The best by *scores*, as many as together have the share *p* of the probability."""
    n = min(_FIRST_LOOK, len(scores))
    while True:
        best = largest(scores, n)
        needed = _n_for(probabilities[best], p, inclusive=inclusive)
        if needed < n or n == len(scores):
            return best[:needed]
        n = min(8 * n, len(scores))


def _n_for(probabilities: Logits, p: float, *, inclusive: bool) -> int:
    """How many of the first have the share *p* together; all when all have less."""
    cumulated = np.cumsum(probabilities, dtype=np.float64)
    at = int(cumulated.searchsorted(p, "left" if inclusive else "right"))
    return min(at + 1, len(probabilities))
