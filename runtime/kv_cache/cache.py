"""The KV cache of one backend: sequence ids, cells, and the prefixes kept for the next turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import NO_MEMORY, Backend, Tokens
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
from spillover.runtime.kv_cache.saved_prefixes import SavedMatch, SavedPrefixes
from spillover.runtime.machine.device import available_memory

PART = 512
"""Tokens of a kept prefix that are saved between two steps of the running answers: all of a long
one would hold them up."""


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
        self._settled: set[int] = set()
        """Kept sequences of which nothing is to be saved now: it is, or cannot be."""
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
    ) -> tuple[int, int] | None:
        """A sequence id for *tokens* and how many of them it already holds; None when there is no
        room for them and *reserve* more. It may also share the beginning of a *live* sequence.
        Without *reuse* it starts empty."""
        self._memory.has_spare(0)
        placed = self._place(tokens, min(len(tokens) + reserve, self._n_kv), live, reuse=reuse)
        if placed is not None and placed[1]:
            self._n_reused += 1
            self._n_reused_tokens += placed[1]
        return placed

    def _place(
        self, tokens: Tokens, need: int, live: Sequence[tuple[int, Tokens]], *, reuse: bool
    ) -> tuple[int, int] | None:
        match = longest_match(tokens, chain(live, self._prefixes.items())) if reuse else None
        saved = self._saved.find(tokens) if reuse else None
        if saved is not None and saved.n_tokens > (match.n_tokens if match else 0):
            placed = self._restore(tokens, saved, need)
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

    def _restore(self, tokens: Tokens, match: SavedMatch, need: int) -> tuple[int, int] | None:
        """A sequence that begins with saved states, if all of them fit."""
        states = [node.state for node in match.chain]
        self._saved.touch(tokens)
        if not self.make_room(max(need, match.n_cells)):
            return None
        saver, seq, n = self._saver, self._ids.pop(), 0
        assert saver is not None, "what is saved was saved by it"
        for node, state in zip(match.chain, states, strict=True):
            assert state is not None, "only states that are there match"
            n = self._cut(seq, n, node.origin)
            if n != node.origin:
                break
            if not saver.append(seq, n, node.end, state):
                # It would be tried again for each prompt. Its file may fit at the next start, when
                # the context is larger.
                self._saved.discard(node)
                break
            n = node.end
        n = self._cut(seq, n, match.n_tokens)
        if n != match.n_tokens:
            self._backend.keep(seq, 0)
            self._ids.append(seq)
            return None
        self._ledger.extend(seq, n)
        self._n_restored += 1
        return seq, n

    def _cut(self, seq: int, n_held: int, n_tokens: int) -> int:
        """How many of its first *n_tokens* a sequence with *n_held* has after it was cut there."""
        return self._backend.keep(seq, n_tokens) if n_held > n_tokens else n_held

    def save_part(self) -> None:
        """Save a part of a kept prefix, if there is one that will have to leave: the oldest of
        as many as may be kept; and where each step's attention covers the cells of all sequences
        any one, whose cells are freed. Called when a sequence is about to generate."""
        seqs = self._prefixes.seqs
        if not self._shares_cells:
            seqs = seqs[:1] if len(seqs) >= self._n_kept else ()
        seq = next((seq for seq in seqs if seq not in self._settled), None)
        if seq is None:
            return
        kept = self._prefixes[seq]
        n = self._part_end(seq, kept)
        if n < len(kept.tokens):
            self._save_tokens(seq, kept.tokens[:n])
        elif self._save(seq, kept) and self._shares_cells:
            self._forget(seq)
            self.drop(seq)
        else:
            self._settled.add(seq)

    def _part_end(self, seq: int, kept: Kept) -> int:
        """Where the next part ends that is to be saved of a sequence: at its end, unless there is
        room for all of it and it can be saved in parts."""
        saver, saved, n_all = self._saver, self._saved, len(kept.tokens)
        lacking = saved.lacking(kept.tokens)
        if saver is None or not (saver.are_cut and saver.saves_parts) or not lacking:
            return n_all
        start, stop = lacking[0]
        # Instructions stay whole: they may become a file.
        end = kept.n_preamble if start < kept.n_preamble else min(stop, start + PART)
        if not saver.can_save(seq, start, end):
            return n_all
        n_bytes = saver.saved_bytes(seq, start, n_all)
        return end if saved.make_room(n_bytes, saved.nodes(kept.tokens[:start])) else n_all

    def _save(self, seq: int, kept: Kept) -> bool:
        """Save what no state holds of a sequence; False when that is not possible."""
        if 0 < kept.n_preamble < len(kept.tokens):
            self._save_tokens(seq, kept.tokens[: kept.n_preamble])
        return self._save_tokens(seq, kept.tokens)

    def _save_tokens(self, seq: int, tokens: Tokens) -> bool:
        saver, saved = self._saver, self._saved
        if saver is None:
            return False
        saved.touch(tokens)
        for start, stop in saved.lacking(tokens):
            # What cannot be saved in parts can be as a whole, where it is all that *seq* holds.
            is_part = saver.can_save(seq, start, stop)
            origin, end = (start, stop) if is_part else (0, len(tokens))
            if not (is_part or saver.can_save(seq, origin, end)):
                return False
            n_bytes = saver.saved_bytes(seq, origin, end)
            before = saved.nodes(tokens[:origin])  # without it the state would be of no use
            if not (saved.make_room(n_bytes, before) and self._memory.has_spare(n_bytes)):
                return False
            try:
                state = saver.save(seq, origin, end)
            except NO_MEMORY:  # a limit of the process, which free_bytes does not know
                saved.reclaim(n_bytes)
                return False
            if not saved.put(tokens[:end], origin, state):
                return False
            if end == len(tokens):
                break
        return True

    def _write(self, disk: PrefixDisk, seq: int, kept: Kept, n: int) -> None:
        """Write the first *n* tokens of a sequence to disk."""
        if n > kept.n_preamble > 0:
            self._save_tokens(seq, kept.tokens[: kept.n_preamble])
        if self._save_tokens(seq, kept.tokens[:n]):
            disk.write(kept.tokens[:n])

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
            if match.n_tokens < self._ledger.n_tokens(match.seq):  # another answer may need the end
                self._save(match.seq, self._prefixes[match.seq])
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

    def take_ids(self, n: int) -> list[int]:
        """Empty sequence ids, to be returned with drop(); none if there are not as many."""
        if n > len(self._ids):
            return []
        return [self._ids.pop() for _ in range(n)]

    def make_room(self, n: int, keep: int | None = None) -> bool:
        """Free *n* cells by saving or dropping kept prefixes other than *keep*. Return False when
        that is not enough, or when the system has no memory for them."""
        if self.has_room(n):
            return True
        spare = [seq for seq in self._prefixes.seqs if seq != keep]
        if not self.has_room(n, self._ledger.n_exclusive(spare)):
            return False
        while not self.has_room(n):
            oldest = self._prefixes.oldest(but=keep)
            if oldest is None:  # what was saved has taken the last of the memory
                return False
            self._evict(oldest)
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
        self._settled.discard(seq)

    def _evict(self, seq: int) -> None:
        if seq not in self._settled:
            self._save(seq, self._prefixes[seq])
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

    def release(
        self, seq: int, tokens: Tokens, n_preamble: int = 0, *, first_out: bool = False
    ) -> None:
        """Keep the *tokens* of *seq*, whose answer has ended, for the next turn. The first
        *n_preamble* of them come before the first words of the user. *first_out*: only in cells
        that nobody else needs."""
        if len(tokens) == 0 or len(tokens) != self._ledger.n_tokens(seq):
            self.drop(seq)
            return
        kept = Kept(np.array(tokens), min(n_preamble, len(tokens)))
        self._prefixes.put(seq, kept)
        if first_out:
            self._prefixes.expire(seq)
            self._settled.add(seq)
        elif self._disk is not None and (n := self._disk.n_wanted(kept)):
            self._write(self._disk, seq, kept, n)
        if len(self._prefixes) > self._n_kept:
            self.evict_one()

    def drop(self, seq: int) -> None:
        """Free all cells of *seq* and its id."""
        self._backend.keep(seq, 0)
        self._ledger.truncate(seq, 0)
        self._memory.shrink(self._ledger.n_used)
        self._ids.append(seq)
