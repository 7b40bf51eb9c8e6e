"""Logprobs from raw logits: before temperature, penalties and masks change them; and, where they
are asked for, probabilities behind all samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from spillover.runtime.backend import Distribution, Logits
from spillover.runtime.events import TokenLogprob, TokenProb, TopLogprob


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


def with_sampled(
    record: TokenLogprob, left: Distribution, n_top: int, text_of: Callable[[int], bytes]
) -> TokenLogprob:
    """*record* with what its token was drawn from: its own share, and the *n_top* largest."""
    positive = left.probabilities > 0  # the smallest shares are too small for a number
    tokens, shares = left.tokens[positive], left.probabilities[positive]
    own = shares[tokens == record.token_id]
    likeliest = [(int(tokens[i]), float(shares[i])) for i in _largest(shares, n_top)]
    shown = [(record.token_id, float(own[0]) if len(own) else 0.0), *likeliest]
    sampled = tuple(TokenProb(token_id=t, token=text_of(t), prob=p) for t, p in shown)
    return structs.replace(record, sampled=sampled)


def _largest(values: npt.NDArray[np.floating[Any]], n: int) -> list[int]:
    """Indices of the *n* largest values, largest first, without sorting all."""
    if n == 0:
        return []
    n = min(n, len(values))
    some = np.argpartition(values, len(values) - n)[-n:]
    order = np.lexsort((some, -values[some]))
    return [int(token) for token in some[order]]
