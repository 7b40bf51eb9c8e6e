"""Finds where the last tokens of a text stood in it before, and so what may follow them.

Prompt lookup (Saxena, 2023): answers about a text often repeat parts of it, and the text itself is
a draft that costs nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import Tokens

SHORTEST, LONGEST = 2, 4
"""Tokens of the n-grams; the longest one that is found counts."""

_N_SIZES = LONGEST - SHORTEST + 1
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
"""Odd numbers of 64 bits, one for each place of a token (multiplicative hashing)."""

_SIZE_FACTOR = 0xA0761D6478BD642F
_MASK = 2**64 - 1
_FIRST_BITS = 10
_FEW = 16
"""Up to this many new tokens, plain Python is faster than numpy."""


class PromptLookup:
    """A hash table from the n-grams of one text to what followed each when it came last.

    Taking a token and looking up take the same time however long the text is. A slot of the table
    holds one position, so that n-grams may displace others; what is found is compared.
    """

    def __init__(self) -> None:
        self._bits = _FIRST_BITS
        self._table = np.zeros(1 << self._bits, dtype=np.int32)
        self._next = LONGEST
        """The first position whose n-grams before it are not in the table."""
        self._found: tuple[int, list[int]] = (0, [])
        """Where it has last looked, and the slots of the n-grams before it."""

    def extend(self, tokens: Tokens) -> None:
        """Take a text that begins with the one of the last call."""
        n = len(tokens)
        if 2 * _N_SIZES * n > len(self._table):
            self._bits = (3 * _N_SIZES * n - 1).bit_length()
            self._table = np.zeros(1 << self._bits, dtype=np.int32)
            self._next, self._found = LONGEST, (0, [])
        if n - self._next <= _FEW:
            for position in range(self._next, n):
                found_at, slots = self._found
                if position != found_at:
                    slots = self._slots(tokens[position - LONGEST : position].tolist())
                for slot in slots:
                    self._table[slot] = position
        else:
            self._take_many(tokens)
        self._next = max(self._next, n)

    def find(self, tokens: Tokens, n_most: int) -> tuple[int, list[int]]:
        """How many of the last *tokens* stood in the text before, and the *n_most* tokens that
        followed them there; (0, []) if there are none. A text that repeats itself goes on so."""
        n = len(tokens)
        if n < LONGEST:
            return 0, []
        last = tokens[n - LONGEST :].tolist()
        slots = self._slots(last)
        self._found = n, slots
        for size in range(LONGEST, SHORTEST - 1, -1):
            position = int(self._table[slots[size - SHORTEST]])
            if position and tokens[position - size : position].tolist() == last[-size:]:
                followed = tokens[position : position + n_most].tolist()
                return size, (followed * -(-n_most // len(followed)))[:n_most]
        return 0, []

    def _slots(self, last: list[int]) -> list[int]:
        """The slots of the n-grams at the end of *last*, which has LONGEST tokens, by size."""
        total, slots = 0, []
        for size, factor in enumerate(_FACTORS, 1):
            total += last[-size] * factor
            if size >= SHORTEST:
                slots.append((total + size * _SIZE_FACTOR & _MASK) >> 64 - self._bits)
        return slots

    def _take_many(self, tokens: Tokens) -> None:
        """The same for all positions that are not in the table, at once."""
        positions = np.arange(self._next, len(tokens))
        total: npt.NDArray[np.uint64] = np.zeros(len(positions), dtype=np.uint64)
        wide = tokens.astype(np.uint64)
        shift = np.uint64(64 - self._bits)
        for size, factor in enumerate(_FACTORS, 1):
            total += wide[positions - size] * np.uint64(factor)
            if size >= SHORTEST:
                slots = total + np.uint64(size * _SIZE_FACTOR & _MASK) >> shift
                self._table[slots] = positions  # the last one of equal slots stays
