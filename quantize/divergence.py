"""How far one model's predictions are from another's, position by position.

The measures are those of llama.cpp's `llama-perplexity --kl-divergence`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.backend import Logits, Tokens
from spillover.runtime.machine.device import default_threads

Numbers = npt.NDArray[np.float64]

_ROWS = 16
"""Rows computed at a time, so that what lies between stays in the caches."""


class Positions(Struct, frozen=True, kw_only=True):
    """Measures of (n,) positions each."""

    divergence: Numbers
    """Kullback-Leibler divergence of the candidate from the reference, in nats."""
    surprise: Numbers
    """What the right token cost the candidate, in nats."""
    surprise_of_reference: Numbers
    is_same_top: npt.NDArray[np.bool_]
    """Whether both expect the same token most."""

    @property
    def delta_p(self) -> Numbers:
        """How much likelier the right token is to the candidate than to the reference."""
        difference: Numbers = np.exp(-self.surprise) - np.exp(-self.surprise_of_reference)
        return difference


def compare(reference: Logits, candidate: Logits, targets: Tokens) -> Positions:
    """Compare logits (n, n_vocab) of the positions before *targets*, on all cores."""
    parts = [slice(start, start + _ROWS) for start in range(0, len(targets), _ROWS)]
    with ThreadPoolExecutor(default_threads()) as threads:
        found = threads.map(
            lambda rows: _compare(reference[rows], candidate[rows], targets[rows]), parts
        )
        return join(list(found))


def join(parts: list[Positions]) -> Positions:
    """The positions of all *parts* in order."""
    return Positions(
        divergence=np.concatenate([part.divergence for part in parts]),
        surprise=np.concatenate([part.surprise for part in parts]),
        surprise_of_reference=np.concatenate([part.surprise_of_reference for part in parts]),
        is_same_top=np.concatenate([part.is_same_top for part in parts]),
    )


def divergence(reference: Logits, candidate: Logits) -> Numbers:
    """The Kullback-Leibler divergence of each row (n, n_vocab), in nats."""
    return compare(reference, candidate, np.zeros(len(reference), np.int32)).divergence


def _compare(reference: Logits, candidate: Logits, targets: Tokens) -> Positions:
    of_reference, of_candidate = _below_top(reference), _below_top(candidate)
    weights = np.exp(of_reference)
    total = weights.sum(-1, dtype=np.float64)
    total_of_candidate = np.exp(of_candidate).sum(-1, dtype=np.float64)
    apart = (weights * (of_reference - of_candidate)).sum(-1, dtype=np.float64) / total
    each = np.arange(len(targets))
    return Positions(
        divergence=apart + np.log(total_of_candidate) - np.log(total),
        surprise=np.log(total_of_candidate) - of_candidate[each, targets],
        surprise_of_reference=np.log(total) - of_reference[each, targets],
        is_same_top=reference.argmax(-1) == candidate.argmax(-1),
    )


def _below_top(logits: Logits) -> Logits:
    """Logits as differences from each row's largest; none so low that its product with a
    probability of 0 is no number."""
    lowest = np.finfo(np.float32).min / 4
    below: Logits = np.maximum(logits - logits.max(-1, keepdims=True), lowest)
    return below
