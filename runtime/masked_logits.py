"""Applies a constraint to a row of logits at the least cost."""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import Constraint, Logits

TokenIds: TypeAlias = npt.NDArray[np.intp]


def allowed_logits(constraint: Constraint, logits: Logits) -> tuple[TokenIds, Logits]:
    """Token ids and their logits, in order of id: only the allowed ones if they are few; otherwise
    all, with minus infinity for those not allowed."""
    n_vocab = len(logits)
    mask = constraint.mask().view(np.uint8)
    bits = np.unpackbits(mask, count=n_vocab, bitorder="little").view(np.bool_)
    if 2 * np.count_nonzero(bits) < n_vocab:
        few: TokenIds = bits.nonzero()[0]
        return few, logits[few]
    masked = logits.copy()
    masked[(~bits).nonzero()[0]] = -np.inf
    return all_tokens(n_vocab), masked


@functools.lru_cache(maxsize=2)
def all_tokens(n_vocab: int) -> TokenIds:
    """0 … n_vocab - 1."""
    ids = np.arange(n_vocab)
    ids.flags.writeable = False
    return ids
