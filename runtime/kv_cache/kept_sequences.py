"""Finished sequences whose KV cells are kept for the next turn, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import Struct

from spillover.runtime.backend import Tokens

MIN_SHARED_TOKENS = 8
"""A shorter common prefix is read again, which is cheaper than bookkeeping."""


class PrefixMatch(Struct, frozen=True):
    """The first *n_tokens* of a prompt are in the KV cache as those of *seq*."""

    seq: int
    n_tokens: int


def n_common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    first = int(different.argmax()) if n else 0
    return first if n and different[first] else n


def longest_match(prompt: Tokens, held: Iterable[tuple[int, Tokens]]) -> PrefixMatch | None:
    """The held sequence that shares most with *prompt*, whose last token is always read to get its
    logits."""
    best: PrefixMatch | None = None
    for seq, tokens in held:
        n = min(n_common(prompt, tokens), len(prompt) - 1)
        if n >= MIN_SHARED_TOKENS and (best is None or n > best.n_tokens):
            best = PrefixMatch(seq, n)
    return best


class Kept(Struct, frozen=True):
    """The tokens of a sequence, and how many of them come before the first turn of the user."""

    tokens: Tokens
    n_preamble: int


class KeptSequences:
    """Remembers sequences that have ended, least recently used first. The caller frees their
    cells."""

    def __init__(self) -> None:
        self._held: OrderedDict[int, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, seq: int) -> bool:
        return seq in self._held

    def __getitem__(self, seq: int) -> Kept:
        return self._held[seq]

    @property
    def seqs(self) -> tuple[int, ...]:
        return tuple(self._held)

    def items(self) -> Iterable[tuple[int, Tokens]]:
        return ((seq, kept.tokens) for seq, kept in self._held.items())

    def put(self, seq: int, kept: Kept) -> None:
        self._held[seq] = kept

    def cut(self, seq: int, n_tokens: int) -> None:
        kept = self._held[seq]
        tokens = kept.tokens[:n_tokens]
        self._held[seq] = Kept(tokens, min(kept.n_preamble, n_tokens))

    def touch(self, seq: int) -> None:
        self._held.move_to_end(seq)

    def expire(self, seq: int) -> None:
        """Make it the next one to go."""
        self._held.move_to_end(seq, last=False)

    def remove(self, seq: int) -> None:
        del self._held[seq]

    def oldest(self, *, but: int | None = None) -> int | None:
        """The least recently used sequence other than *but*."""
        return next((seq for seq in self._held if seq != but), None)
