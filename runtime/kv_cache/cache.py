"""The KV cache of one backend: sequence ids, cells, and the prefixes kept for the next turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import N_DISCARDED, N_PART, Backend, SavedKv, Tokens
from spillover.runtime.engine import PrefixCounts
from spillover.runtime.kv_cache.kept_sequences import (
    Kept,
    KeptSequences,
    PrefixMatch,
    longest_match,
)
from spillover.runtime.kv_cache.ledger import KvLedger
from spillover.runtime.kv_cache.memory import KvMemory
from spillover.runtime.kv_cache.prefix_disk import PrefixDisk, PrefixDiskOptions
from spillover.runtime.kv_cache.prefix_saver import PrefixSaver
from spillover.runtime.kv_cache.saved_prefixes import SavedMatch, SavedPrefixes
from spillover.runtime.machine.device import available_memory


class KvCacheOptions(Struct, frozen=True, kw_only=True):
    """What a KV cache may keep of sequences that have ended."""

    n_kept: int
    """Sequences that stay in the backend's cache."""
    saved_bytes: int = 0
    """Memory for the states of others."""
    disk: PrefixDiskOptions | None = None
    """None: nothing is kept on disk."""


class KvCache:
    """Places sequences in the backend's KV cache. Belongs to the thread that decodes.

    Ids that are not in use hold no cells. What is kept of a sequence that has ended is saved in
    host memory before it has to leave.
    """

    def __init__(
        self,
        backend: Backend,
        options: KvCacheOptions,
        free_bytes: Callable[[], int] = available_memory,
        wake: Callable[[], None] = lambda: None,
        ask_for_memory: Callable[[int], bool] = lambda n_bytes: False,
    ) -> None:
        """*wake* is called in other threads when there is something for take_news().
        *ask_for_memory* asks others for so many bytes and says whether it did;
        note_memory_answer() must follow then."""
        info = backend.info
        self._backend = backend
        self._saver = backend.saver
        self._n_kept = options.n_kept
        self._ledger = KvLedger(info.n_kv, info.n_seq)
        self._prefixes = KeptSequences()
        self._saved = SavedPrefixes(
            options.saved_bytes, are_cut=self._saver is None or self._saver.are_cut
        )
        self._memory = KvMemory(
            info.kv_bytes_per_cell,
            is_returned=info.returns_kv,
            free_bytes=free_bytes,
            reclaim=self._saved.reclaim,
            ask=ask_for_memory,
        )
        self._wake = wake
        self._n_wanted_back = 0
        self._has_answer = False
        # What cannot be put together would be written anew in each turn.
        is_written = self._saver is not None and self._saver.are_cut
        self._disk = (
            PrefixDisk(self._saved, options.disk, wake) if options.disk and is_written else None
        )
        self._prefix_saver = PrefixSaver(
            self._saver, self._prefixes, self._saved, self._memory, self._disk
        )
        self._filled: set[int] = set()
        """Sequences that get the rest of what they begin with from fill_part()."""
        self._ids = list(range(info.n_seq))
        self._n_kv = info.n_kv
        self._shares_cells = info.shares_cells
        self._n_restored = self._n_reused_tokens = self._n_reused = 0

    @property
    def n_used(self) -> int:
        return self._ledger.n_used

    def n_tokens(self, seq: int) -> int:
        return self._ledger.n_tokens(seq)

    @property
    def counts(self) -> PrefixCounts:
        """Any thread may ask."""
        return PrefixCounts(
            n_reused=self._n_reused,
            n_reused_tokens=self._n_reused_tokens,
            n_restored=self._n_restored,
            n_saved=len(self._saved),
            saved_bytes=self._saved.n_bytes,
            n_dropped=self._saved.n_dropped,
            n_written=0 if self._disk is None else self._disk.n_written,
        )

    # --- what others do meanwhile -------------------------------------------------------------

    def give_back(self, n_bytes: int) -> None:
        """Drop so much of what is saved, soon. Any thread may call it."""
        self._n_wanted_back = n_bytes
        self._wake()

    def note_memory_answer(self) -> None:
        """What others could give back is free. Any thread may call it."""
        self._has_answer = True
        self._wake()

    @property
    def is_waiting(self) -> bool:
        """Whether a prompt waits for the disk, or for others that give memory back."""
        return self._memory.is_waiting or (self._disk is not None and self._disk.is_reading)

    def take_news(self) -> bool:
        """Do what other threads have asked for; whether a prompt that waits may be tried again."""
        n_bytes, self._n_wanted_back = self._n_wanted_back, 0
        if n_bytes:
            self._saved.reclaim(n_bytes)
        has_answer, self._has_answer = self._has_answer, False
        if has_answer:
            self._memory.note_answer()
        return (self._disk is not None and self._disk.take()) or has_answer

    def fetch(self, tokens: Tokens, live: Sequence[tuple[int, Tokens]]) -> bool:
        """Whether *tokens* should wait, since more of them is being read from disk than is here."""
        if self._disk is None:
            return False
        match = longest_match(tokens, chain(live, self._prefixes.items()))
        saved = self._saved.find(tokens)
        n_there = max(match.n_tokens if match else 0, saved.n_tokens if saved else 0)
        return self._disk.fetch(tokens, n_there, self._memory.has_spare)

    def close(self) -> None:
        """End the threads that read and write files."""
        if self._disk is not None:
            self._disk.close()

    # --- sequences --------------------------------------------------------------------------

    def place(
        self,
        tokens: Tokens,
        reserve: int,
        live: Sequence[tuple[int, Tokens]],
        *,
        reuse: bool = True,
        in_parts: bool = False,
    ) -> tuple[int, int] | None:
        """A sequence id for *tokens* and how many of them it already holds; None when there is no
        room for them and *reserve* more. It may also share the beginning of a *live* sequence.
        Without *reuse* it starts empty. *in_parts*: others generate, so save_part() and fill_part()
        do what takes long."""
        self._memory.has_spare(0)
        self._prefix_saver.wanted = None
        need = min(len(tokens) + reserve, self._n_kv)
        in_parts = in_parts and self._prefix_saver.has_parts
        placed = self._place(tokens, need, live, reuse=reuse, in_parts=in_parts)
        if placed is not None and (placed[1] or self.is_filled(placed[0])):
            self._n_reused += 1
            self._n_reused_tokens += placed[1]
        return placed

    def _place(
        self,
        tokens: Tokens,
        need: int,
        live: Sequence[tuple[int, Tokens]],
        *,
        reuse: bool,
        in_parts: bool,
    ) -> tuple[int, int] | None:
        match = longest_match(tokens, chain(live, self._prefixes.items())) if reuse else None
        source = match.seq if match is not None and match.seq in self._prefixes else None
        while len(self._prefixes) > self._n_kept + (source is not None):
            oldest = self._prefixes.oldest(but=source)
            if oldest is None or not self._let_go(oldest, in_parts=in_parts):
                return None
        saved = self._saved.find(tokens) if reuse else None
        if saved is not None and saved.n_tokens > (match.n_tokens if match else 0):
            placed = self._restore(tokens, saved, need, in_parts=in_parts)
            if placed is not None or self.is_making_room:
                return placed
        if match is not None and not self._can_use(match, need, in_parts=in_parts):
            match = None
        if self.is_making_room:
            return None
        if match is None and not self.make_room(need, in_parts=in_parts):
            return None
        if match is None:
            return self._ids.pop(), 0
        seq, n_held = self._use(match, in_parts=in_parts)
        is_less = n_held < match.n_tokens and seq not in self._filled
        if is_less and not self.make_room(need - n_held, in_parts=in_parts):
            self.drop(seq)
            return None
        return seq, n_held

    def _restore(
        self, tokens: Tokens, match: SavedMatch, need: int, *, in_parts: bool
    ) -> tuple[int, int] | None:
        """A sequence that begins with saved states, if all of them fit."""
        states = [node.state for node in match.chain]
        self._saved.touch(tokens)
        if not self.make_room(max(need, match.n_cells), in_parts=in_parts):
            return None
        seq, n = self._ids.pop(), 0
        if in_parts and match.n_tokens > N_PART:
            self._filled.add(seq)
        else:
            for i, state in enumerate(states):
                n = self._restore_node(seq, match, i, state)
            if n != match.n_tokens:
                self._truncate(seq, 0)
                self._ids.append(seq)
                return None
        self._n_restored += 1
        return seq, n

    def _restore_node(self, seq: int, match: SavedMatch, i: int, state: SavedKv | None) -> int:
        """Append the state of a node of *match* to *seq*; returns how many tokens that holds."""
        saver, node, n = self._saver, match.chain[i], self._ledger.n_tokens(seq)
        assert saver is not None, "what is saved was saved by it"
        assert state is not None, "only states that are there match"
        if n > node.origin:
            n = self._truncate(seq, node.origin)
        if n != node.origin:
            return n
        if not saver.append(seq, n, node.end, state):
            # It would be tried again for each prompt. Its file may fit at the next start, when the
            # context is larger.
            self._saved.discard(node)
            return n
        self._ledger.extend(seq, node.end - n)
        return node.end if node.end <= match.n_tokens else self._truncate(seq, match.n_tokens)

    def _truncate(self, seq: int, n_tokens: int) -> int:
        """Cut a sequence; returns how many tokens it holds then."""
        n = self._backend.keep(seq, n_tokens)
        self._ledger.truncate(seq, n)
        return n

    # --- in parts ---------------------------------------------------------------------------

    def is_filled(self, seq: int) -> bool:
        """Whether fill_part() adds more of what a placed sequence begins with."""
        return seq in self._filled

    @property
    def is_making_room(self) -> bool:
        """Whether a prompt waits until save_part() has saved what leaves for it."""
        return self._prefix_saver.wanted is not None

    def fill_part(self, seq: int, tokens: Tokens, live: Sequence[tuple[int, Tokens]]) -> int:
        """Restore or copy a part more of what *seq* begins with, as long as that is held anywhere;
        returns how many of its *tokens* it holds then."""
        n = self._ledger.n_tokens(seq)
        others = [each for each in live if each[0] != seq]
        match = longest_match(tokens, chain(others, self._prefixes.items()))
        saved = self._saved.find(tokens)
        n_copied = match.n_tokens if match is not None and not self._shares_cells else 0
        n_after = n
        if saved is not None and saved.n_tokens > max(n, n_copied):
            i = next(i for i, node in enumerate(saved.chain) if node.end > n)
            state = saved.chain[i].state
            if self.make_room(saved.chain[i].end - n, in_parts=True):
                n_after = self._restore_node(seq, saved, i, state)
        elif match is not None and n_copied > n and self.make_room(N_PART, in_parts=True):
            n_after = self._copy(match.seq, seq, min(n_copied, n + N_PART))
        self._n_reused_tokens += max(n_after - n, 0)
        if n_after <= n and not self.is_making_room:
            self._filled.discard(seq)
        return n_after

    def _copy(self, source: int, target: int, n_tokens: int) -> int:
        """Give *target* the first *n_tokens* of *source*; returns how many it holds then."""
        n = self._backend.copy(source, target, n_tokens)
        self._ledger.extend(target, n - self._ledger.n_tokens(target))
        return n

    def save_part(self, n_ahead: int = 0) -> int:
        """Save a part of a kept prefix, if there is one that will have to leave: the oldest of as
        many as may be kept, or when cells become few; and where each step's attention covers the
        cells of all sequences any one, whose cells are freed. Called between two steps of sequences
        that generate, which will soon need *n_ahead* cells. Returns the number of tokens."""
        seqs = self._prefixes.seqs
        if not self._shares_cells:
            is_near = len(seqs) >= self._n_kept or self._ledger.n_free < n_ahead
            seqs = seqs[:1] if is_near else ()
        n, saved = self._prefix_saver.save_part(seqs)
        if saved is not None and self._shares_cells:
            self._leave(saved)
        return n

    def _let_go(self, seq: int, *, in_parts: bool) -> bool:
        """Save and free a kept sequence; False where save_part() has to save it first."""
        if in_parts and not (self._prefix_saver.may_go(seq) and self._is_shortened(seq)):
            return False
        self._evict(seq)
        return True

    def _is_shortened(self, seq: int) -> bool:
        """Whether little is left to return of the memory of a kept sequence; some of it is returned
        otherwise, and save_part() leads to the next time."""
        n_left = self._ledger.n_tokens(seq) - N_DISCARDED
        if self._shares_cells or n_left <= 0:
            return True
        self._prefix_saver.save(seq)
        self._prefixes.cut(seq, self._truncate(seq, n_left))
        self._prefix_saver.wanted = seq
        return False

    def _can_use(self, match: PrefixMatch, need: int, *, in_parts: bool) -> bool:
        """Free the cells for a prompt of *need* tokens that begins with *match*."""
        is_used_up = self._is_used_up(match)
        is_cut = is_used_up and match.n_tokens < self._ledger.n_tokens(match.seq)
        if is_cut and in_parts and not self._prefix_saver.may_go(match.seq):
            return False
        n_spared = match.n_tokens * (self._shares_cells or is_used_up)
        return self.make_room(need - n_spared, keep=match.seq, in_parts=in_parts)

    def _is_used_up(self, match: PrefixMatch) -> bool:
        """Whether no other request needs the sequence of *match*: it was kept for the next turn of
        its conversation, which is this one."""
        if match.seq not in self._prefixes:
            return False
        return match.n_tokens * 10 >= self._ledger.n_tokens(match.seq) * 9

    def _use(self, match: PrefixMatch, *, in_parts: bool) -> tuple[int, int]:
        """A sequence with the tokens of *match*, and how many of them it holds."""
        if self._is_used_up(match):
            if match.n_tokens < self._ledger.n_tokens(match.seq):  # another answer may need the end
                self._prefix_saver.save(match.seq)
            self._forget(match.seq)
            return match.seq, self._truncate(match.seq, match.n_tokens)
        target = self._ids.pop()
        if self._shares_cells:
            n = self._backend.copy(match.seq, target, match.n_tokens)
            self._ledger.share(match.seq, target, n)
        elif in_parts and match.n_tokens > N_PART:
            n = 0
            self._filled.add(target)
        else:
            n = self._copy(match.seq, target, match.n_tokens)
        if match.seq in self._prefixes:
            self._prefixes.touch(match.seq)
        return target, n

    def take_ids(self, n: int) -> list[int]:
        """Empty sequence ids, to be returned with drop(); none if there are not as many."""
        self._evict_surplus()
        if n > len(self._ids):
            return []
        return [self._ids.pop() for _ in range(n)]

    def make_room(self, n: int, keep: int | None = None, *, in_parts: bool = False) -> bool:
        """Free *n* cells by saving or dropping kept prefixes other than *keep*. Return False when
        that is not enough, or when the system has no memory for them; *in_parts* also when one of
        them has to be saved by save_part() first."""
        if self.has_room(n):
            return True
        spare = [seq for seq in self._prefixes.seqs if seq != keep]
        if not self.has_room(n, self._ledger.n_exclusive(spare)):
            return False
        while not self.has_room(n):
            oldest = self._prefixes.oldest(but=keep)
            if oldest is None:  # what was saved has taken the last of the memory
                return False
            if not self._let_go(oldest, in_parts=in_parts):
                return False
        return True

    def has_room(self, n: int, n_dropped: int = 0) -> bool:
        """Whether *n* cells could be taken if *n_dropped* others were freed."""
        ledger = self._ledger
        is_room = ledger.n_free + n_dropped >= n
        return is_room and self._memory.allows(ledger.n_used - n_dropped + n)

    def evict_one(self) -> bool:
        """Save or drop the oldest kept prefix; False when there is none."""
        oldest = self._prefixes.oldest()
        if oldest is not None:
            self._evict(oldest)
        return oldest is not None

    def _forget(self, seq: int) -> None:
        self._prefixes.remove(seq)
        self._prefix_saver.forget(seq)

    def _leave(self, seq: int) -> None:
        self._forget(seq)
        self.drop(seq)

    def _evict(self, seq: int) -> None:
        self._prefix_saver.save(seq)
        self._leave(seq)

    def extend(self, seq: int, n: int) -> None:
        """Note *n* more tokens of *seq*, which the backend has just read."""
        self._ledger.extend(seq, n)

    def rewind(self, seq: int) -> int:
        """Cut *seq* in the backend to its noted tokens, after an aborted call; returns how many it
        holds then."""
        return self._truncate(seq, self._ledger.n_tokens(seq))

    def release(
        self,
        seq: int,
        tokens: Tokens,
        n_preamble: int = 0,
        *,
        first_out: bool = False,
        in_parts: bool = False,
    ) -> None:
        """Keep the *tokens* of *seq*, whose answer has ended, for the next turn. The first
        *n_preamble* of them come before the first words of the user. *first_out*: only in cells
        that nobody else needs. *in_parts*: others generate; save_part() does what takes long."""
        self._filled.discard(seq)
        if len(tokens) == 0 or len(tokens) != self._ledger.n_tokens(seq):
            self.drop(seq)
            return
        kept = Kept(np.array(tokens), min(n_preamble, len(tokens)))
        self._prefixes.put(seq, kept)
        if first_out:
            self._prefixes.expire(seq)
            self._prefix_saver.settle(seq)
        elif self._disk is not None and (n := self._disk.n_wanted(kept)):
            self._prefix_saver.unwritten[seq] = n
        if in_parts and self._prefix_saver.has_parts:
            return
        self._prefix_saver.write_all()
        self._evict_surplus()

    def _evict_surplus(self) -> None:
        while len(self._prefixes) > self._n_kept:
            self.evict_one()

    def drop(self, seq: int) -> None:
        """Free all cells of *seq* and its id."""
        self._filled.discard(seq)
        self._truncate(seq, 0)
        self._memory.shrink(self._ledger.n_used)
        self._ids.append(seq)
