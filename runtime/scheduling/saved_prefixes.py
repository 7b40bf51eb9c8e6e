"""KV states of finished conversations, saved in host memory, where they do not slow any step."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count

from msgspec import Struct

from spillover.runtime.backend import SavedKv, Tokens
from spillover.runtime.scheduling.prefix_cache import longest_match, n_common

MOST_WASTE = 16
"""A state is only restored for at least this share (1/16) of its tokens."""


class SavedPrefix(Struct, frozen=True):
    """The tokens of a conversation and their KV state."""

    tokens: Tokens
    state: SavedKv


class SavedMatch(Struct, frozen=True):
    """The first *n_tokens* of a prompt are those of the state under *key*."""

    key: int
    n_tokens: int


class SavedPrefixes:
    """At most *max_count* states of *max_bytes* in total; the least recently used are dropped
    first."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._held: OrderedDict[int, SavedPrefix] = OrderedDict()
        self._keys = count()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def has_room_for(self, n_bytes: int) -> bool:
        """Whether a state of this size could be held, if necessary at the cost of others."""
        return self._max_count > 0 and n_bytes <= self._max_bytes

    def put(self, tokens: Tokens, state: SavedKv) -> None:
        """Keep a state, and drop those that are prefixes of it."""
        for key, held in list(self._held.items()):
            if n_common(held.tokens, tokens) == len(held.tokens):
                self.remove(key)
        self._held[next(self._keys)] = SavedPrefix(tokens, state)
        self.n_bytes += state.nbytes
        while len(self._held) > self._max_count or self.n_bytes > self._max_bytes:
            self.remove(next(iter(self._held)))

    def find(self, prompt: Tokens) -> SavedMatch | None:
        """The state that shares most with *prompt*, if it is worth restoring."""
        match = longest_match(prompt, ((key, s.tokens) for key, s in self._held.items()))
        if match is None or match.n_tokens * MOST_WASTE < len(self._held[match.seq].tokens):
            return None
        return SavedMatch(match.seq, match.n_tokens)

    def take(self, key: int) -> SavedPrefix:
        """The state under *key*, now the most recently used."""
        self._held.move_to_end(key)
        return self._held[key]

    def remove(self, key: int) -> None:
        self.n_bytes -= self._held.pop(key).state.nbytes
