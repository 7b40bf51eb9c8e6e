"""The KV cache of one backend: sequence ids, cells, and the prefixes kept for the next turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from spillover.runtime.backend import Backend, Tokens
from spillover.runtime.device import available_memory
from spillover.runtime.scheduling.kv_ledger import KvLedger
from spillover.runtime.scheduling.kv_memory import KvMemory
from spillover.runtime.scheduling.prefix_cache import PrefixCache, PrefixMatch, longest_match
from spillover.runtime.scheduling.saved_prefixes import SavedMatch, SavedPrefixes


class KvCache:
    """Places sequences in the backend's KV cache. Belongs to the thread that decodes.

    Ids that are not in use hold no cells.
    """

    def __init__(
        self,
        backend: Backend,
        n_prefix_cached: int,
        saved_prefix_bytes: int = 0,
        free_bytes: Callable[[], int] = available_memory,
    ) -> None:
        info = backend.info
        self._backend = backend
        self._memory = KvMemory(
            info.kv_bytes_per_cell, is_returned=info.returns_kv, free_bytes=free_bytes
        )
        self._ledger = KvLedger(info.n_kv, info.n_seq)
        self._prefixes = PrefixCache(n_prefix_cached)
        self._saved = SavedPrefixes(n_prefix_cached, saved_prefix_bytes)
        self._unsaveable: set[int] = set()
        self._ids = list(range(info.n_seq))
        self._n_kv = info.n_kv
        self._shares_cells = info.shares_cells

    @property
    def n_used(self) -> int:
        return self._ledger.n_used

    def n_tokens(self, seq: int) -> int:
        return self._ledger.n_tokens(seq)

    def place(
        self,
        tokens: Tokens,
        reserve: int,
        live: Sequence[tuple[int, Tokens]],
        *,
        reuse: bool = True,
    ) -> tuple[int, int] | None:
        """A sequence id for *tokens* and how many of them it already holds; None when there is no
        room for them and *reserve* more. It may also share the beginning of a *live* sequence.
        Without *reuse* it starts empty."""
        match = longest_match(tokens, chain(live, self._prefixes.items())) if reuse else None
        need = min(len(tokens) + reserve, self._n_kv)
        saved = self._saved.find(tokens) if reuse else None
        if saved is not None and saved.n_tokens > (match.n_tokens if match else 0):
            placed = self._restore(saved, need)
            if placed is not None:
                return placed
        if match is not None and not self._can_use(match, need):
            match = None
        if match is None and not self.make_room(need):
            return None
        seq, n_held = (self._ids.pop(), 0) if match is None else self._use(match)
        if match is not None and n_held < match.n_tokens and not self.make_room(need - n_held):
            self.drop(seq)
            return None
        return seq, n_held

    def _restore(self, match: SavedMatch, need: int) -> tuple[int, int] | None:
        """A sequence that begins with a saved prefix, if all of it fits."""
        saved = self._saved.take(match.key)
        if not self.make_room(max(need, len(saved.tokens))):
            return None
        saver = self._backend.saver
        assert saver is not None, "a saved prefix was saved by it"
        seq = self._ids.pop()
        if not saver.restore(seq, saved.state):
            self._ids.append(seq)
            return None
        n = self._backend.keep(seq, match.n_tokens)
        self._ledger.extend(seq, n)
        if n * 10 >= len(saved.tokens) * 9:
            self._saved.remove(match.key)
        return seq, n

    def save_one_prefix(self) -> None:
        """Save a kept prefix, if there is one, and free its cells. Called when a sequence is about
        to generate, since each step's attention covers the cells of all sequences."""
        if len(self._prefixes) == len(self._unsaveable):
            return
        seq = next(seq for seq in self._prefixes.seqs if seq not in self._unsaveable)
        saver = self._backend.saver
        if saver is None or not self._saved.has_room_for(saver.saved_bytes(seq)):
            self._unsaveable.add(seq)
            return
        self._saved.put(self._prefixes[seq], saver.save(seq))
        self._evict(seq)

    def _can_use(self, match: PrefixMatch, need: int) -> bool:
        """Free the cells for a prompt of *need* tokens that begins with *match*."""
        is_spared = self._shares_cells or self._is_used_up(match)
        return self.make_room(need - match.n_tokens * is_spared, keep=match.seq)

    def _is_used_up(self, match: PrefixMatch) -> bool:
        """Whether no other request needs the sequence of *match*: it was kept for the next turn of
        its conversation, which is this one."""
        if match.seq not in self._prefixes:
            return False
        return match.n_tokens * 10 >= self._ledger.n_tokens(match.seq) * 9

    def _use(self, match: PrefixMatch) -> tuple[int, int]:
        """A sequence with the tokens of *match*, and how many of them it holds."""
        if self._is_used_up(match):
            self._forget(match.seq)
            n = self._backend.keep(match.seq, match.n_tokens)
            self._ledger.truncate(match.seq, n)
            return match.seq, n
        target = self._ids.pop()
        n = self._backend.copy(match.seq, target, match.n_tokens)
        if self._shares_cells:
            self._ledger.share(match.seq, target, n)
        else:
            self._ledger.extend(target, n)
        if match.seq in self._prefixes:
            self._prefixes.touch(match.seq)
        return target, n

    def take_id(self) -> int:
        """An empty sequence id, to be returned with drop()."""
        return self._ids.pop()

    def make_room(self, n: int, keep: int | None = None) -> bool:
        """Free *n* cells by dropping kept prefixes other than *keep*. Return False and free nothing
        when that is not enough, or when the system has no memory for them."""
        if self.has_room(n):
            return True
        spare = [seq for seq in self._prefixes.seqs if seq != keep]
        if not self.has_room(n, self._ledger.n_exclusive(spare)):
            return False
        while not self.has_room(n):
            oldest = self._prefixes.oldest(but=keep)
            assert oldest is not None
            self._evict(oldest)
        return True

    def has_room(self, n: int, n_dropped: int = 0) -> bool:
        """Whether *n* cells could be taken if *n_dropped* others were freed."""
        ledger = self._ledger
        is_room = ledger.n_free + n_dropped >= n
        return is_room and self._memory.allows(ledger.n_used - n_dropped + n)

    def evict_one(self) -> bool:
        """Drop the oldest kept prefix; False when there is none."""
        oldest = self._prefixes.oldest()
        if oldest is not None:
            self._evict(oldest)
        return oldest is not None

    def _forget(self, seq: int) -> None:
        self._prefixes.remove(seq)
        self._unsaveable.discard(seq)

    def _evict(self, seq: int) -> None:
        self._forget(seq)
        self.drop(seq)

    def extend(self, seq: int, n: int) -> None:
        """Note *n* more tokens of *seq*, which the backend has just read."""
        self._ledger.extend(seq, n)

    def rewind(self, seq: int) -> int:
        """Cut *seq* in the backend to its noted tokens, after an aborted call; returns how many it
        holds then."""
        n = self._backend.keep(seq, self._ledger.n_tokens(seq))
        self._ledger.truncate(seq, n)
        return n

    def release(self, seq: int, tokens: Tokens, *, first_out: bool = False) -> None:
        """Keep the *tokens* of *seq*, whose answer has ended, for the next turn. *first_out*: only
        in cells that nobody else needs."""
        if len(tokens) == 0 or len(tokens) != self._ledger.n_tokens(seq):
            self.drop(seq)
            return
        self._prefixes.put(seq, np.array(tokens))
        if first_out:
            self._prefixes.expire(seq)
            self._unsaveable.add(seq)
        if self._prefixes.is_over:
            self.evict_one()

    def drop(self, seq: int) -> None:
        """Free all cells of *seq* and its id."""
        self._backend.keep(seq, 0)
        self._ledger.truncate(seq, 0)
        self._memory.shrink(self._ledger.n_used)
        self._ids.append(seq)
