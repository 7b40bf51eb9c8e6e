"""How sure a model was of the tokens it chose: statistics over the latest tokens.

Minima and low quantiles of windows separate right from wrong answers better than entropy alone, and
better than means over the whole answer, which wash out in long answers. The lowest group is
DeepConf's (arXiv 2508.15260), with windows short enough for a chat.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from spillover.runtime.events import TokenLogprob

EARLY, SHORT, LONG = 8, 16, 64
_FLOOR = -30.0
"""Lower logprobs, such as those of tokens that a mask forced, count as this."""
_FAST, _SLOW = 1 / 8, 1 / 32


class Confidence:
    """A fold over the logprobs of one kind of text: answer, code or reasoning.

    A token only enters the windows; the statistics are computed on demand.
    """

    __slots__ = ("_entropies", "_fast", "_groups", "_logprobs", "_lowest_group", "_margins",
                 "_slow", "_sum_early", "_sum_group", "n")  # fmt: skip

    def __init__(self) -> None:
        self.n = 0
        """Tokens that counted."""
        self._logprobs: deque[float] = deque(maxlen=LONG)
        self._entropies: deque[float] = deque(maxlen=LONG)
        self._margins: deque[float] = deque(maxlen=SHORT)
        self._groups: deque[float] = deque()
        self._sum_early = 0.0
        self._sum_group = 0.0
        self._lowest_group = 0.0
        self._fast = self._slow = 0.0

    def push(self, token: TokenLogprob) -> None:
        """Take one token. Tokens with unknown numbers are skipped."""
        logprob, entropy, top = token.logprob, token.entropy, token.top
        if not (logprob <= 0.0 and 0.0 <= entropy < math.inf):  # NaN is neither
            return
        if logprob < _FLOOR:
            logprob = _FLOOR
        if self.n < EARLY:
            self._sum_early += logprob
        self._logprobs.append(logprob)
        self._entropies.append(entropy)
        if len(top) > 1:
            runner_up = top[1].logprob
            self._margins.append(min(top[0].logprob - runner_up, -_FLOOR))
            self._group(-runner_up if runner_up > _FLOOR else -_FLOOR)
        if self.n:
            self._fast += (logprob - self._fast) * _FAST
            self._slow += (logprob - self._slow) * _SLOW
        else:
            self._fast = self._slow = logprob
        self.n += 1

    def _group(self, doubt: float) -> None:
        """DeepConf's group confidence: a sure model leaves little probability to the runners-up."""
        groups = self._groups
        groups.append(doubt)
        self._sum_group += doubt
        if len(groups) > SHORT:
            self._sum_group -= groups.popleft()
            mean = self._sum_group / SHORT
            if mean < self._lowest_group:
                self._lowest_group = mean
        else:
            self._lowest_group = self._sum_group / len(groups)

    @property
    def group_mean(self) -> float:
        """Mean logprob of the last 16 tokens; 0 while empty."""
        return _mean(_last(self._logprobs))

    @property
    def low_quantile(self) -> float:
        """10 % quantile of the last 64 logprobs; 0 while empty."""
        return quantile(sorted(self._logprobs), 0.10)

    def features(self) -> dict[str, float]:
        """Values by name, always finite. A number in a name is the number of tokens considered:
        the first ones (early), or the last ones."""
        ordered = sorted(self._logprobs)
        n = max(len(ordered), 1)
        return {
            "early_8": self._sum_early / min(max(self.n, 1), EARLY),
            "mean_64": _mean(self._logprobs),
            "mean_16": self.group_mean,
            "lowest_64": ordered[0] if ordered else 0.0,
            "quantile_05": quantile(ordered, 0.05),
            "quantile_10": quantile(ordered, 0.10),
            "share_below_1": bisect_left(ordered, -1.0) / n,
            "share_below_3": bisect_left(ordered, -3.0) / n,
            "margin_16": _mean(self._margins),
            "entropy_64": _mean(self._entropies),
            "entropy_16": _mean(_last(self._entropies)),
            "lowest_group": self._lowest_group,
            "slope": self._fast - self._slow,
            "log_length": math.log1p(self.n),
        }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that *share* of the ordered values do not exceed; 0 if there are none."""
    return ordered[int(share * (len(ordered) - 1) + 0.5)] if ordered else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _last(values: deque[float]) -> list[float]:
    return list(values)[-SHORT:]
