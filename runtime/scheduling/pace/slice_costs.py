"""The cost of a prefill slice on this device.

The cost of a call is not proportional to its tokens, nor even monotone: with flash attention on a
CPU a slice of 48 can cost twice a slice of 64, because another kernel starts at 64 rows. So
nothing is assumed: a few sizes are measured, and later calls correct them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

SIZES = (1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Slice sizes that are measured and preferred, in tokens."""

_LEARNING_RATE = 0.2
_MOST_ERROR = 1.0
"""The error of a call counts up to this share of its prediction."""

_DEPTH_OF_BOTH = 512
"""At this depth an error is attributed half to the base and half to the slope."""

_N_RECENT = 5
"""The load is the median over this many calls, so that a single delayed one changes nothing."""


NTokens: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
CallSeconds: TypeAlias = Annotated[float, Meta(ge=1e-7, le=1e5)]
TokenAndCellSeconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e3)]


class SavedCosts(Struct, frozen=True, kw_only=True):
    """A cost table as kept on disk: seconds per call, and per token and cell before it, by
    slice size."""

    per_call_s: dict[NTokens, CallSeconds]
    per_token_and_cell_s: dict[NTokens, TokenAndCellSeconds]


class SliceCosts:
    """Predicts the seconds of a call that reads *n* tokens after *depth* others:
    load · (base(n) + slope(n) · n · depth).

    The shape, base and slope, was measured on an idle machine and is corrected slowly. The load is
    the factor by which everything is slower now, because of other programs, heat or a battery.
    """

    def __init__(self, saved: SavedCosts | None = None) -> None:
        self._base: dict[int, float] = dict(saved.per_call_s) if saved else {}
        self._slopes: dict[int, float] = dict(saved.per_token_and_cell_s) if saved else {}
        self._deep: dict[int, tuple[int, float]] = {}
        self._recent = deque([1.0] * _N_RECENT, maxlen=_N_RECENT)

    def save(self) -> SavedCosts:
        return SavedCosts(per_call_s=dict(self._base), per_token_and_cell_s=dict(self._slopes))

    @property
    def load(self) -> float:
        """How long calls take now, relative to the table. Two long calls in a row count at once,
        because a gap that is too long is worse than a short slice."""
        return max(median(self._recent), min(self._recent[-1], self._recent[-2]))

    def is_measured(self, n_tokens: int) -> bool:
        return n_tokens in self._base

    def measured(self, n_tokens: int, seconds: float) -> None:
        """Note the *seconds* of an undisturbed call on an empty sequence. Noise only adds time, so
        the shortest of several measurements counts."""
        self._base[n_tokens] = min(seconds, self._base.get(n_tokens, seconds))
        self._set_slope(n_tokens)

    def measured_deep(self, n_tokens: int, depth: int, seconds: float) -> None:
        """The same call after *depth* others; its size must have been measured."""
        known_depth, known_s = self._deep.get(n_tokens, (depth, seconds))
        self._deep[n_tokens] = (depth, min(seconds, known_s) if known_depth == depth else seconds)
        self._set_slope(n_tokens)

    def _set_slope(self, n: int) -> None:
        """Compute slopes from the shortest times of both kinds, in whichever order they came."""
        if n in self._deep:
            depth, seconds = self._deep[n]
            self._slopes[n] = max(seconds - self._base[n], 0.0) / (n * depth)

    def borrow_slopes(self, other: SliceCosts) -> None:
        """Use the slopes of *other*, since the cost of depth does not depend on the other rows."""
        self._slopes = other._slopes

    def observe(self, n_tokens: int, depth: int, seconds: float) -> None:
        """Learn from a call that served requests."""
        expected_s = self._at_rest(n_tokens, depth)
        if expected_s is None:
            if n_tokens in SIZES:
                self._base[n_tokens] = seconds
            return
        self._recent.append(seconds / expected_s)
        known = self._base.get(n_tokens)
        if known is not None:
            # What the load does not explain is an error of the shape: of the base near the
            # beginning of a text, of the slope deep in it.
            most_s = _MOST_ERROR * expected_s
            error_s = min(max(seconds / self.load - expected_s, -most_s), most_s)
            deep = depth / (depth + _DEPTH_OF_BOTH)
            learned = known + _LEARNING_RATE * (1 - deep) * error_s
            self._base[n_tokens] = max(learned, known / 2)
            size = self._slope_size(n_tokens) or n_tokens
            slope = self._slopes.get(size, 0.0)
            if depth:
                slope += _LEARNING_RATE * deep * error_s / (n_tokens * depth)
                self._slopes[size] = max(slope, 0.0)

    def predict(self, n_tokens: int, depth: int) -> float | None:
        """Seconds, or None when nothing is known yet."""
        at_rest = self._at_rest(n_tokens, depth)
        return None if at_rest is None else self.load * at_rest

    def _at_rest(self, n: int, depth: int) -> float | None:
        base = self._base_of(n)
        return None if base is None else base + self._slope_of(n) * n * depth

    def _base_of(self, n: int) -> float | None:
        if n in self._base:
            return self._base[n]
        below = max((k for k in self._base if k < n), default=None)
        above = min((k for k in self._base if k > n), default=None)
        if below is None:
            return self._base[above] if above is not None else None
        if above is None:
            return self._base[below] * n / below
        low, high = self._base[below], self._base[above]
        if high < low:
            # A cheaper kernel starts somewhere between the two: assume the more expensive one.
            return low * n / below
        return low + (high - low) * (n - below) / (above - below)

    def _slope_of(self, n: int) -> float:
        size = self._slope_size(n)
        return 0.0 if size is None else self._slopes[size]

    def _slope_size(self, n: int) -> int | None:
        """The largest size up to *n* whose slope was measured, since kernels change with the
        rows."""
        return max((k for k in self._slopes if k <= n), default=min(self._slopes, default=None))

    def efficient_size(self) -> int:
        """The smallest measured size that reads nearly as fast as any; 1 when nothing is known."""
        rates = {size: size / seconds for size, seconds in self._base.items()}
        good = [size for size, rate in rates.items() if rate >= 0.9 * max(rates.values())]
        return min(good, default=1)

    def candidates(self, n_left: int, n_most: int) -> Iterator[int]:
        """Slice sizes to consider when *n_left* tokens are unread."""
        n = min(n_left, n_most)
        yield n
        yield from (size for size in SIZES if size < n)
