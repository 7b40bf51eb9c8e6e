"""What calls that check proposed tokens have cost."""

from __future__ import annotations

from collections import defaultdict

RETRY_SIZE = 3
"""Tokens of a draft that are checked to learn what that costs."""

_LEARNING_RATE = 0.1
"""Of longer times. A shorter one counts at once, as other programs only add time."""


class CheckCosts:
    """Seconds of calls, by how many sequences decode, how many of them have a draft, which some
    backends read apart, and how many tokens are proposed."""

    def __init__(self, max_gap_s: float) -> None:
        self._max_gap_s = max_gap_s
        self.plain_s: dict[int, float] = {}
        """Of a plain step, by decoding sequences."""
        self._costs: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
        self._tried: set[tuple[int, int, int]] = set()

    def seconds(self, n: int, n_served: int, n_drafted: int) -> float | None:
        """Seconds of a call of *n* sequences with *n_drafted* tokens more, for *n_served* of them:
        measured, or estimated from other sizes. None where those are much smaller, so that larger
        drafts are tried one after the other. A first try costs no more than a step, as far as
        anybody knows."""
        known = {0: self.plain_s[n]}
        for n_most in range(n, n_served - 1, -1):  # more drafts take no less time
            known.update(self._costs.get((n, n_most), {}))
        if n_drafted in known:
            return known[n_drafted]
        below = max(size for size in known if size < n_drafted)
        above = min((size for size in known if size > n_drafted), default=0)
        if above:
            slope = (known[above] - known[below]) / (above - below)
        elif n_drafted > 2 * below + max(RETRY_SIZE, n):
            return None
        else:
            slope = max(known[below] - known[0], 0.0) / below if below else 0.0
        return known[below] + slope * (n_drafted - below)

    def observe(self, n: int, n_served: int, n_drafted: int, seconds: float) -> None:
        """Note what a call of *n* sequences with *n_drafted* proposed tokens, for *n_served* of
        them, has taken. The first one of its shape does not count: libraries allocate memory in
        it."""
        if (n, n_served, n_drafted) not in self._tried:
            self._tried.add((n, n_served, n_drafted))
        elif not n_drafted:
            self.plain_s[n] = learned(self.plain_s.get(n), seconds)
        else:
            known = self._costs[n, n_served]
            is_too_long = seconds > self._max_gap_s  # not to be made soon again, to learn more
            last = None if is_too_long else known.get(n_drafted)
            known[n_drafted] = learned(last, seconds)

    def fade(self, n: int) -> None:
        """Believe half of what is known of checks for *n* sequences, but no less than a plain
        step."""
        for key, known in self._costs.items():
            if key[0] == n:
                known.update({size: max(self.plain_s[n], s / 2) for size, s in known.items()})


def learned(known: float | None, seconds: float) -> float:
    """What a call is expected to take, after one that took *seconds*."""
    return min((known or seconds) * (1 - _LEARNING_RATE) + _LEARNING_RATE * seconds, seconds)
