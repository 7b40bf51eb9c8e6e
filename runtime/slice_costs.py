"""What a prefill slice costs on this device, and which one to run next.

The cost of a call is not proportional to its tokens, not even monotone: with flash attention on a
CPU a slice of 48 can cost twice a slice of 64, because another kernel starts at 64 rows. So
nothing is assumed: a few sizes are measured, and what runs later corrects them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

SIZES = (1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Slice sizes that are measured and preferred, in tokens."""

_LEARNING_RATE_UP = 0.5
_LEARNING_RATE_DOWN = 0.2
"""Slow to believe that a call became cheaper: too long a gap is worse than a short slice."""


class SavedCosts(Struct, frozen=True, kw_only=True):
    """A cost table as it is kept on disk; seconds per call by slice size."""

    per_call_s: dict[int, float]
    per_token_and_cell_s: float


class SliceCosts:
    """Predicts the seconds of a call that reads *n* tokens after *depth* others:
    base(n) + slope · n · depth."""

    def __init__(self, saved: SavedCosts | None = None) -> None:
        self._base: dict[int, float] = dict(saved.per_call_s) if saved else {}
        self._slope = saved.per_token_and_cell_s if saved else 0.0

    def save(self) -> SavedCosts:
        return SavedCosts(per_call_s=dict(self._base), per_token_and_cell_s=self._slope)

    def missing(self) -> tuple[int, ...]:
        """The sizes that have not been measured."""
        return tuple(size for size in SIZES if size not in self._base)

    def observe(self, n_tokens: int, depth: int, seconds: float) -> None:
        """Learn from a call; sizes that are not in SIZES only move the slope."""
        known = self._base.get(n_tokens)
        work = n_tokens * depth
        if known is None:
            if n_tokens in SIZES:
                self._base[n_tokens] = max(seconds - self._slope * work, seconds / 4)
            return
        error = seconds - (known + self._slope * work)
        rate = _LEARNING_RATE_UP if error > 0 else _LEARNING_RATE_DOWN
        # Deep in a text the surprise is mostly the attention's, at its start the base's.
        share = self._slope * work / seconds if seconds > 0 else 0.0
        self._base[n_tokens] = max(known + rate * error * (1 - min(share, 0.8)), 1e-6)
        if depth > n_tokens:
            self._slope = max(self._slope + 0.1 * rate * error / work, 0.0)

    def fit_slope(self, samples: Mapping[tuple[int, int], float]) -> None:
        """Set the slope from calls of one size at different depths: {(n, depth): seconds}."""
        slopes = []
        for (n, depth), seconds in samples.items():
            base = self._base.get(n)
            if base is not None and depth > 0:
                slopes.append(max(seconds - base, 0.0) / (n * depth))
        if slopes:
            slopes.sort()
            self._slope = slopes[len(slopes) // 2]

    def predict(self, n_tokens: int, depth: int) -> float | None:
        """Seconds, or None when nothing is known yet."""
        base = self._base_of(n_tokens)
        return None if base is None else base + self._slope * n_tokens * depth

    def _base_of(self, n: int) -> float | None:
        if n in self._base:
            return self._base[n]
        below = max((k for k in self._base if k < n), default=None)
        above = min((k for k in self._base if k > n), default=None)
        if below is None:
            return self._base[above] if above is not None else None
        if above is None:
            return self._base[below] * n / below
        # Between two sizes the cliff may lie anywhere: believe the dearer neighbour.
        return max(self._base[above], self._base[below] * n / below)

    def read_s(self, n_tokens: int) -> float | None:
        """Seconds to read a text of *n_tokens* in the best slices; None when nothing is known."""
        rates = [size / seconds for size, seconds in self._base.items()]
        return n_tokens / max(rates) if rates else None

    def candidates(self, n_left: int, n_most: int) -> Iterator[int]:
        """Slice sizes to consider when *n_left* tokens are unread."""
        n = min(n_left, n_most)
        yield n
        yield from (size for size in SIZES if size < n)


class SlicePlan(Struct, frozen=True):
    """The next slice: its size, and whether it shares the call with the decode rows."""

    n_tokens: int
    mixed: bool


def best_alone(costs: SliceCosts, n_left: int, depth: int, n_most: int) -> int:
    """The slice that reads fastest when nobody waits for a token."""
    best, best_rate = min(n_left, n_most), 0.0
    for n in costs.candidates(n_left, n_most):
        seconds = costs.predict(n, depth)
        if seconds is None:
            return min(n_left, n_most)
        if n / seconds > best_rate * 1.02:
            best, best_rate = n, n / seconds
    return best


def best_within(
    costs: SliceCosts, n_left: int, depth: int, n_most: int, room_s: float, decode_s: float
) -> tuple[int, float] | None:
    """The slice size with the best prefill rate whose calls, as many as fit, end within *room_s*
    beside one decode step of *decode_s*; and that rate in tokens per second."""
    best: tuple[int, float] | None = None
    for n in costs.candidates(n_left, n_most):
        seconds = costs.predict(n, depth)
        if seconds is None or seconds > room_s:
            continue
        n_calls = min(int(room_s / seconds), -(-n_left // n))
        rate = min(n_calls * n, n_left) / (decode_s + n_calls * seconds)
        if best is None or rate > best[1]:
            best = (n, rate)
    return best


def plan_slice(
    pure: SliceCosts,
    mixed: SliceCosts,
    *,
    n_left: int,
    depth: int,
    n_most: int,
    room_s: float,
    decode_s: float,
) -> SlicePlan:
    """The next slice while others generate; *room_s* is the allowed gap without the decode step.

    When not even the cheapest slice fits, the cheapest is taken: the prompt must go on.
    """
    alone = best_within(pure, n_left, depth, n_most, room_s, decode_s)
    together = _best_mixed(mixed, n_left, depth, n_most, room_s + decode_s)
    if together and (alone is None or together[1] > alone[1]):
        return SlicePlan(together[0], True)
    return SlicePlan(alone[0] if alone else _cheapest(pure, n_left, depth, n_most), False)


def _best_mixed(
    costs: SliceCosts, n_left: int, depth: int, n_most: int, gap_s: float
) -> tuple[int, float] | None:
    best: tuple[int, float] | None = None
    for n in costs.candidates(n_left, n_most):
        seconds = costs.predict(n, depth)
        if seconds is not None and seconds <= gap_s and (best is None or n / seconds > best[1]):
            best = (n, n / seconds)
    return best


def _cheapest(costs: SliceCosts, n_left: int, depth: int, n_most: int) -> int:
    """The slice that takes least; ties go to the larger one. 16 while nothing is known."""
    known = [
        (seconds, -n)
        for n in costs.candidates(n_left, n_most)
        if (seconds := costs.predict(n, depth)) is not None
    ]
    return -min(known)[1] if known else min(n_left, n_most, 16)
