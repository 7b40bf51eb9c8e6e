"""Finds an answer that goes round in circles, and where its second round began."""

from __future__ import annotations

import zlib
from array import array
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

_MAX_PERIOD = 256
_WINDOW = 256
_GRAM = 4
_CHECK_EVERY = 4
_GUARD = 4
"""Text that repeats by nature (code, tables, rules, figures) must repeat so many times more."""
_DISTINCT_SHARE = 0.4
"""A near loop has fewer different 4-grams than this share of its window."""
_ZLIB_RATIO = 3.0
_ZLIB_CHARS = 1_500
_NEAR_GAP = 96
"""Most tokens between two rounds of a near loop."""

_Ints: TypeAlias = npt.NDArray[np.int32]
_Gram: TypeAlias = tuple[int, int, int, int]


class Loop(Struct, frozen=True, kw_only=True):
    """A repetition; *keep_chars* of the text come before its second round."""

    period: int
    """Tokens of one round; of a near loop about so many."""
    n_tokens: int
    """Tokens covered, the first round included."""
    copies: float
    keep_chars: int


class Loops:
    """A fold over an answer's tokens, at a constant cost for each.

    For every period up to 256 it counts how many tokens in a row were the same as that many
    tokens before; and it counts the 4-grams of the last 256 tokens.
    """

    def __init__(self, n_tokens: int, n_copies: int, near_count: int) -> None:
        self._tokens = array("q")
        self._starts = array("q")
        self._wordless = array("b")
        # The last tokens, oldest first, at _ring[_at : _at + _MAX_PERIOD]; copied to the front
        # when the end is reached.
        self._ring: _Ints = np.full(4 * _MAX_PERIOD, -1, dtype=np.int32)
        self._at = 0
        self._runs: _Ints = np.zeros(_MAX_PERIOD, dtype=np.int32)
        self._same = np.zeros(_MAX_PERIOD, dtype=np.bool_)
        self._periods: _Ints = np.arange(_MAX_PERIOD, 0, -1, dtype=np.int32)
        # Covered tokens are the run and the first round.
        self._needed: _Ints = np.maximum(
            n_tokens - self._periods, (n_copies - 1) * self._periods
        ).astype(np.int32)
        self._near_count = near_count
        self._grams: deque[_Gram] = deque()
        self._counts: Counter[_Gram] = Counter()
        self._suspect = 0

    @property
    def distinct_share(self) -> float:
        """Different 4-grams among those of the last 256 tokens; 1 for a text without repeats."""
        return len(self._counts) / len(self._grams) if self._grams else 1.0

    def push(self, token: int, start_char: int, *, has_word: bool) -> None:
        """Take a token whose text begins at *start_char* of the answer."""
        self._tokens.append(token)
        self._starts.append(start_char)
        self._wordless.append(not has_word)
        at = self._at
        np.equal(self._ring[at : at + _MAX_PERIOD], token, out=self._same)
        np.add(self._runs, 1, out=self._runs)
        np.multiply(self._runs, self._same, out=self._runs)
        self._remember(token)
        self._count_gram()

    def _remember(self, token: int) -> None:
        end = self._at + _MAX_PERIOD
        if end == len(self._ring):
            self._ring[:_MAX_PERIOD] = self._ring[self._at : end].copy()
            self._at, end = 0, _MAX_PERIOD
        self._ring[end] = token
        self._at += 1

    def _count_gram(self) -> None:
        tokens = self._tokens
        if len(tokens) < _GRAM:
            return
        gram = (tokens[-4], tokens[-3], tokens[-2], tokens[-1])
        count = self._counts[gram] = self._counts.get(gram, 0) + 1
        if count >= self._near_count:
            self._suspect = len(tokens)
        self._grams.append(gram)
        if len(self._grams) > _WINDOW:
            oldest = self._grams.popleft()
            left = self._counts[oldest] - 1
            if left:
                self._counts[oldest] = left
            else:
                del self._counts[oldest]

    def find(self, text_end: Callable[[], str], *, repeats_by_nature: bool) -> Loop | None:
        """A loop that the answer is in now; looked for at every fourth token.

        *text_end* gives the end of the answer's text; *repeats_by_nature*: it is code or JSON.
        """
        n = len(self._tokens)
        if n % _CHECK_EVERY:
            return None
        over = self._runs >= self._needed
        if over.any():
            loop = self._exact(over, repeats_by_nature)
            if loop is not None:
                return loop
        if self._suspect == n or (self._suspect > n - _CHECK_EVERY and n > _CHECK_EVERY):
            return self._near(text_end, repeats_by_nature)
        return None

    def _exact(self, over: npt.NDArray[np.bool_], repeats_by_nature: bool) -> Loop | None:
        index = int(np.flatnonzero(over)[-1])  # the shortest period
        period, run = int(self._periods[index]), int(self._runs[index])
        covered = period + run
        by_nature = repeats_by_nature or all(self._wordless[-period:])
        if by_nature and run < _GUARD * int(self._needed[index]):
            return None
        second = len(self._tokens) - run
        return Loop(
            period=period,
            n_tokens=covered,
            copies=covered / period,
            keep_chars=self._starts[second],
        )

    def _near(self, text_end: Callable[[], str], repeats_by_nature: bool) -> Loop | None:
        """Near variants of one passage: the same words again and again, in a text that says
        little new."""
        if len(self._grams) < _WINDOW // 2 or self.distinct_share > _DISTINCT_SHARE:
            return None
        tail = text_end()[-_ZLIB_CHARS:].encode()
        if len(tail) < _ZLIB_RATIO * len(zlib.compress(tail)):
            return None
        gram, count = self._counts.most_common(1)[0]
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
        """Where *gram* stands, as far back as its places follow close on each other."""
        tokens = self._tokens
        places: list[int] = []
        for i in range(len(tokens) - _GRAM, -1, -1):
            if places and places[-1] - i > _NEAR_GAP:
                break
            if tokens[i] == gram[0] and tuple(tokens[i : i + _GRAM]) == gram:
                places.append(i)
        places.reverse()
        return places
