"""How far two ways of computing the same logits are apart."""

from __future__ import annotations

import numpy as np

from spillover.runtime.backend import Logits


def divergence(wanted: Logits, found: Logits) -> float:
    """Mean Kullback-Leibler divergence of the rows (n, n_vocab), in nats; NaN where *found* holds
    what is not a number."""
    a, b = _log_softmax(wanted), _log_softmax(found)
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
