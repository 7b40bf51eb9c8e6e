"""Finds an answer that repeats itself, and where its second round began."""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

from msgspec import Struct

_WINDOW = 256
_MAX_PERIOD = 240
"""Less than the window, so that a round is still known when the next one comes."""
_GRAM = 4
_CHECK_EVERY = 8
_MAX_PERIODS_LOOKED_AT = 8
_GUARD = 4
"""Text that repeats by nature (code, tables, rules, figures) must repeat this many times as
often."""
_DISTINCT_SHARE = 0.4
"""A near loop has fewer distinct 4-grams than this share of its window."""
_ZLIB_RATIO = 3.0
_ZLIB_CHARS = 1_500
_NEAR_GAP = 96
"""Most tokens between two rounds of a near loop."""

_Gram: TypeAlias = tuple[int, int, int, int]


class Loop(Struct, frozen=True, kw_only=True):
    """A repetition; *keep_chars* of the text come before its second round."""

    period: int
    """Tokens of one round; approximate for a near loop."""
    n_tokens: int
    """Tokens covered, the first round included."""
    copies: float
    keep_chars: int


class Loops:
    """A fold over an answer's tokens, at constant cost per token.

    It counts the 4-grams of the last 256 tokens, and looks closer only after a run of 4-grams that
    have all occurred before.
    """

    def __init__(self, n_tokens: int, n_copies: int, near_count: int) -> None:
        self._tokens = array("q")
        self._starts = array("q")
        self._wordless = array("b")
        self._n_tokens = n_tokens
        self._n_copies = n_copies
        self._near_count = near_count
        # In the second round of a loop every 4-gram except the first three has occurred before.
        self._suspicious_from = min(map(self._needed, range(1, _MAX_PERIOD))) - _GRAM + 1
        self._grams: deque[_Gram] = deque()
        self._counts: dict[_Gram, int] = {}
        self._n_known = 0
        self._crowded = 0
        self._looked_at = 0

    def _needed(self, period: int) -> int:
        """How many consecutive tokens must equal those *period* tokens earlier."""
        return max(self._n_tokens - period, (self._n_copies - 1) * period)

    @property
    def distinct_share(self) -> float:
        """Share of distinct 4-grams among those of the last 256 tokens; 1 for text without
        repeats."""
        return len(self._counts) / len(self._grams) if self._grams else 1.0

    def push(self, token: int, start_char: int, *, has_word: bool) -> None:
        """Take a token whose text begins at *start_char* of the answer."""
        tokens, counts, grams = self._tokens, self._counts, self._grams
        tokens.append(token)
        self._starts.append(start_char)
        self._wordless.append(not has_word)
        n = len(tokens)
        if n < _GRAM:
            return
        gram = (tokens[n - 4], tokens[n - 3], tokens[n - 2], token)
        count = counts.get(gram, 0) + 1
        counts[gram] = count
        self._n_known = self._n_known + 1 if count > 1 else 0
        if count >= self._near_count:
            self._crowded = n
        grams.append(gram)
        if n > _WINDOW + _GRAM - 1:
            oldest = grams.popleft()
            left = counts[oldest] - 1
            if left:
                counts[oldest] = left
            else:
                del counts[oldest]

    def find(self, text_end: Callable[[], str], *, repeats_by_nature: bool) -> Loop | None:
        """The loop that the answer is in now; checks once every eight tokens.

        *text_end* returns the end of the answer's text; *repeats_by_nature*: it is code or JSON.
        """
        n, looked_at = len(self._tokens), self._looked_at
        if n - looked_at < _CHECK_EVERY:
            return None
        self._looked_at = n
        if self._n_known >= self._suspicious_from:
            loop = self._exact(repeats_by_nature)
            if loop is not None:
                return loop
        if self._crowded > looked_at:
            return self._near(text_end, repeats_by_nature)
        return None

    def _exact(self, repeats_by_nature: bool) -> Loop | None:
        """The shortest period at which the last tokens repeat."""
        tokens, n = self._tokens, len(self._tokens)
        for period in self._periods():
            needed = self._needed(period)
            if repeats_by_nature or all(self._wordless[-period:]):
                needed *= _GUARD
            if n < needed + period or tokens[n - needed :] != tokens[n - needed - period : -period]:
                continue
            second = n - needed
            while second > period and tokens[second - 1] == tokens[second - 1 - period]:
                second -= 1
            return Loop(
                period=period,
                n_tokens=n - second + period,
                copies=(n - second + period) / period,
                keep_chars=self._starts[second],
            )
        return None

    def _periods(self) -> list[int]:
        """Distances to the earlier occurrences of the last 4-gram, nearest first."""
        grams = self._grams
        last = grams[-1]
        places = (i for i in range(1, min(len(grams), _MAX_PERIOD)) if grams[-1 - i] == last)
        return list(islice(places, _MAX_PERIODS_LOOKED_AT))

    def _near(self, text_end: Callable[[], str], repeats_by_nature: bool) -> Loop | None:
        """Find near variants of one passage: the same words repeatedly in a text with little
        new."""
        if len(self._grams) < _WINDOW // 2 or self.distinct_share > _DISTINCT_SHARE:
            return None
        tail = text_end()[-_ZLIB_CHARS:].encode()
        if len(tail) < _ZLIB_RATIO * len(zlib.compress(tail)):
            return None
        gram, count = max(self._counts.items(), key=lambda pair: pair[1])
        if repeats_by_nature and count < _GUARD * self._near_count:
            return None
        places = self._chain(gram)
        covered = len(self._tokens) - places[0]
        return Loop(
            period=max((places[-1] - places[0]) // max(len(places) - 1, 1), 1),
            n_tokens=covered,
            copies=float(len(places)),
            keep_chars=self._starts[places[1]],
        )

    def _chain(self, gram: _Gram) -> list[int]:
        """Where *gram* occurs, back to the first gap of more than _NEAR_GAP tokens."""
        tokens = self._tokens
        places: list[int] = []
        for i in range(len(tokens) - _GRAM, -1, -1):
            if places and places[-1] - i > _NEAR_GAP:
                break
            if tokens[i] == gram[0] and tuple(tokens[i : i + _GRAM]) == gram:
                places.append(i)
        places.reverse()
        return places
