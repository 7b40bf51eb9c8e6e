"""How sure a model was of the tokens it chose: one track of windowed statistics.

What is measured and why it is these: windowed minimum and low quantiles separate right from
wrong answers better than means over the answer (which long answers wash out) and than entropy
alone; the lowest group is DeepConf's (arXiv 2508.15260) with windows as short as a chat needs.
"""

from __future__ import annotations

import math
from collections import deque

from spillover.cloud_fallback.policy.windows import MeanWindow, SortedWindow
from spillover.runtime.events import TokenLogprob

SHORT, LONG = 16, 64
_FLOOR = -30.0
"""A logprob below this (a token that a mask forced) says no more than this."""
_FAST, _SLOW = 1 / 8, 1 / 32


class Confidence:
    """A fold over the logprobs of one kind of text: answer, code or reasoning."""

    __slots__ = (
        "_entropies",
        "_fast",
        "_last",
        "_long",
        "_lowest_group",
        "_slow",
        "_sum_entropy",
        "_sum_group",
        "_sum_logprob",
        "_sum_margin",
        "n",
    )

    def __init__(self) -> None:
        self.n = 0
        """Tokens that counted."""
        self._long = SortedWindow(LONG)
        self._entropies = MeanWindow(LONG)
        # The last SHORT tokens: logprob, entropy, margin over the runner-up, its -logprob.
        self._last: deque[tuple[float, float, float, float]] = deque()
        self._sum_logprob = self._sum_entropy = self._sum_margin = self._sum_group = 0.0
        self._lowest_group = 0.0
        self._fast = self._slow = 0.0

    def push(self, token: TokenLogprob) -> None:
        """Take one token; one whose numbers are unknown is left out."""
        logprob, entropy, top = token.logprob, token.entropy, token.top
        if not (logprob <= 0.0 and 0.0 <= entropy < math.inf):  # NaN is neither
            return
        if logprob < _FLOOR:
            logprob = _FLOOR
        margin = group = 0.0
        if len(top) > 1:
            runner_up = top[1].logprob
            # A sure model leaves nothing for the runners-up.
            group = -max(runner_up, _FLOOR)
            margin = min(top[0].logprob - runner_up, -_FLOOR)
        self._long.push(logprob)
        self._entropies.push(entropy)
        self._push_short(logprob, entropy, margin, group)
        first = self.n == 0
        self.n += 1
        self._fast += (logprob - self._fast) * (1.0 if first else _FAST)
        self._slow += (logprob - self._slow) * (1.0 if first else _SLOW)
        mean_group = self._sum_group / len(self._last)
        if self.n <= SHORT or mean_group < self._lowest_group:
            self._lowest_group = mean_group

    def _push_short(self, logprob: float, entropy: float, margin: float, group: float) -> None:
        last = self._last
        last.append((logprob, entropy, margin, group))
        if len(last) > SHORT:
            old_logprob, old_entropy, old_margin, old_group = last.popleft()
            self._sum_logprob += logprob - old_logprob
            self._sum_entropy += entropy - old_entropy
            self._sum_margin += margin - old_margin
            self._sum_group += group - old_group
            return
        self._sum_logprob += logprob
        self._sum_entropy += entropy
        self._sum_margin += margin
        self._sum_group += group

    @property
    def group_mean(self) -> float:
        """Mean logprob of the last 16 tokens; 0 while empty."""
        return self._sum_logprob / max(len(self._last), 1)

    @property
    def low_quantile(self) -> float:
        """10 % quantile of the last 64 logprobs; 0 while empty."""
        return self._long.quantile(0.1)

    def features(self) -> dict[str, float]:
        """Named values, finite whatever was pushed; the number is that of the tokens looked at."""
        long, n_last = self._long, max(len(self._last), 1)
        return {
            "mean_64": long.mean,
            "mean_16": self._sum_logprob / n_last,
            "lowest_64": long.lowest,
            "quantile_05": long.quantile(0.05),
            "quantile_10": long.quantile(0.10),
            "share_below_1": long.share_below(-1.0),
            "share_below_3": long.share_below(-3.0),
            "margin_16": self._sum_margin / n_last,
            "entropy_64": self._entropies.mean,
            "entropy_16": self._sum_entropy / n_last,
            "lowest_group": self._lowest_group,
            "slope": self._fast - self._slow,
            "log_length": math.log1p(self.n),
        }
