"""Logprobs from raw logits: before temperature, penalties and masks change them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spillover.runtime.backend import Logits
from spillover.runtime.events import TokenLogprob, TopLogprob


class RawDistribution:
    """The softmax of one row of logits (n_vocab,), taken before a sampler may change the row."""

    def __init__(self, logits: Logits, n_top: int) -> None:
        highest = logits.max()
        shifted = logits - highest
        weights = np.exp(shifted)
        total = float(weights.sum(dtype=np.float64))
        self._log_total = float(np.log(total))
        # H = log Z - E[x] for x shifted by the maximum; a weight of 0 times -inf counts as 0.
        with np.errstate(invalid="ignore"):
            expected = float(np.nansum(weights * shifted, dtype=np.float64)) / total
        self._entropy = self._log_total - expected
        self._shifted = shifted
        self._top = _largest(shifted, n_top)

    def of(self, token: int, text_of: Callable[[int], bytes]) -> TokenLogprob:
        """The logprob record of the chosen *token*."""
        return TokenLogprob(
            token_id=token,
            token=text_of(token),
            logprob=self._logprob(token),
            entropy=self._entropy,
            top=tuple(
                TopLogprob(token_id=t, token=text_of(t), logprob=self._logprob(t))
                for t in self._top
            ),
        )

    def _logprob(self, token: int) -> float:
        # JSON has no infinity; -1e30 is what a forbidden token gets.
        return max(float(self._shifted[token]) - self._log_total, -1e30)


def _largest(values: Logits, n: int) -> list[int]:
    """Indices of the *n* largest values, largest first, without sorting all."""
    if n == 0:
        return []
    n = min(n, len(values))
    some = np.argpartition(values, len(values) - n)[-n:]
    order = np.lexsort((some, -values[some]))
    return [int(token) for token in some[order]]
