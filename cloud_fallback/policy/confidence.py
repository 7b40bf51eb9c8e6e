"""How sure a model was of the tokens it chose: one track of windowed statistics.

What is measured and why it is these: windowed minimum and low quantiles separate right from
wrong answers better than means over the answer (which long answers wash out) and than entropy
alone; the lowest group is DeepConf's (arXiv 2508.15260) with windows as short as a chat needs.
"""

from __future__ import annotations

import math

from spillover.cloud_fallback.policy.windows import MeanWindow, SortedWindow
from spillover.runtime.events import TokenLogprob

SHORT, LONG = 16, 64
_FLOOR = -30.0
"""A logprob below this (a token that a mask forced) says no more than this."""
_FAST, _SLOW = 1 / 8, 1 / 32

FEATURES = (
    "mean_64",
    "mean_16",
    "lowest_64",
    "quantile_05",
    "quantile_10",
    "share_below_1",
    "share_below_3",
    "margin_16",
    "entropy_64",
    "entropy_16",
    "lowest_group",
    "slope",
    "log_length",
)
"""What features() gives, in its order."""


class Confidence:
    """A fold over the logprobs of one kind of text: answer, code or reasoning."""

    __slots__ = (
        "_entropies",
        "_entropies_short",
        "_fast",
        "_groups",
        "_long",
        "_lowest_group",
        "_margins",
        "_short",
        "_slow",
        "n",
    )

    def __init__(self) -> None:
        self.n = 0
        """Tokens that counted."""
        self._short = MeanWindow(SHORT)
        self._long = SortedWindow(LONG)
        self._margins = MeanWindow(SHORT)
        self._entropies = MeanWindow(LONG)
        self._entropies_short = MeanWindow(SHORT)
        self._groups = MeanWindow(SHORT)
        self._lowest_group = math.inf
        self._fast = self._slow = 0.0

    def push(self, token: TokenLogprob) -> None:
        """Take one token; one whose numbers are unknown is left out."""
        logprob, entropy = token.logprob, token.entropy
        if not (logprob <= 0.0 and entropy >= 0.0):  # NaN is neither
            return
        logprob = max(logprob, _FLOOR)
        self.n += 1
        self._short.push(logprob)
        self._long.push(logprob)
        self._entropies.push(entropy)
        self._entropies_short.push(entropy)
        top = token.top
        if len(top) > 1:
            self._margins.push(min(top[0].logprob - top[1].logprob, -_FLOOR))
            self._group(top[1].logprob)
        first = self.n == 1
        self._fast += (logprob - self._fast) * (1.0 if first else _FAST)
        self._slow += (logprob - self._slow) * (1.0 if first else _SLOW)

    def _group(self, runner_up: float) -> None:
        """DeepConf's group confidence: a sure model leaves nothing for the runners-up."""
        self._groups.push(-max(runner_up, _FLOOR))
        mean = self._groups.mean
        self._lowest_group = mean if self.n <= SHORT else min(self._lowest_group, mean)

    @property
    def group_mean(self) -> float:
        """Mean logprob of the last 16 tokens."""
        return self._short.mean

    @property
    def low_quantile(self) -> float:
        """10 % quantile of the last 64 logprobs."""
        return self._long.quantile(0.1)

    def features(self) -> tuple[float, ...]:
        """The values of FEATURES; finite, whatever was pushed."""
        long = self._long
        return (
            long.mean,
            self._short.mean,
            long.lowest,
            long.quantile(0.05),
            long.quantile(0.10),
            long.share_below(-1.0),
            long.share_below(-3.0),
            self._margins.mean,
            self._entropies.mean,
            self._entropies_short.mean,
            self._lowest_group if self._lowest_group < math.inf else 0.0,
            self._fast - self._slow,
            math.log1p(self.n),
        )
