"""Finished sequences whose KV cells are kept for the next turn, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import Struct

from spillover.runtime.backend import Tokens

MIN_SHARED_TOKENS = 8
"""A shorter common beginning is read again: cheaper than keeping book of it."""

QUICK_S = 0.1
MAX_QUICK_CELLS = 512
"""Of texts that are read again within QUICK_S, so many cells are kept besides the newest text's."""


class Match(Struct, frozen=True):
    """The first *n_tokens* of a prompt are in the KV cache as those of *seq*."""

    seq: int
    n_tokens: int


def n_common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    first = int(different.argmax()) if n else 0
    return first if n and different[first] else n


def longest_match(prompt: Tokens, held: Iterable[tuple[int, Tokens]]) -> Match | None:
    """The held sequence that shares most with *prompt*; its last token must be read in any case,
    for its logits."""
    best: Match | None = None
    for seq, tokens in held:
        n = min(n_common(prompt, tokens), len(prompt) - 1)
        if n >= MIN_SHARED_TOKENS and (best is None or n > best.n_tokens):
            best = Match(seq, n)
    return best


class PrefixCache:
    """At most *limit* sequences that nobody generates with. Only remembers, drops nothing.

    Of those that are quick to read again few cells are kept: each decode step looks at the cells
    of all sequences, and a small model's step notices.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[int, Tokens] = OrderedDict()
        self._quick: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, seq: int) -> bool:
        return seq in self._held

    @property
    def seqs(self) -> tuple[int, ...]:
        return tuple(self._held)

    def surplus(self) -> int | None:
        """A sequence that is one too many; None when all may stay."""
        if len(self._held) > self._limit:
            return self.oldest()
        older = [seq for seq in self._held if seq in self._quick][:-1]
        n_cells = sum(len(self._held[seq]) for seq in older)
        return older[0] if n_cells > MAX_QUICK_CELLS else None

    def items(self) -> Iterable[tuple[int, Tokens]]:
        return self._held.items()

    def put(self, seq: int, tokens: Tokens, read_again_s: float | None) -> None:
        """Remember *seq*; *read_again_s* is what reading its *tokens* again would take."""
        self._held[seq] = tokens
        if read_again_s is not None and read_again_s < QUICK_S:
            self._quick.add(seq)

    def touch(self, seq: int) -> None:
        self._held.move_to_end(seq)

    def remove(self, seq: int) -> None:
        del self._held[seq]
        self._quick.discard(seq)

    def oldest(self, *, but: int | None = None) -> int | None:
        """The least recently used sequence other than *but*."""
        return next((seq for seq in self._held if seq != but), None)
