"""Copies what kept sequences hold in a KV cache to saved states, in parts, before they leave."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

from spillover.runtime.backend import N_PART, NO_MEMORY, KvSaver, Tokens
from spillover.runtime.kv_cache.kept_sequences import Kept, KeptSequences
from spillover.runtime.kv_cache.memory import KvMemory
from spillover.runtime.kv_cache.prefix_disk import PrefixDisk
from spillover.runtime.kv_cache.saved_prefixes import SavedPrefixes

Ranges: TypeAlias = list[tuple[int, int]]


class PrefixSaver:
    """A state holds at most N_PART tokens, so that a conversation is also restored in parts; or all
    of it, where a part takes no less time or cannot be put together with others."""

    def __init__(
        self,
        saver: KvSaver | None,
        prefixes: KeptSequences,
        saved: SavedPrefixes,
        memory: KvMemory,
        disk: PrefixDisk | None,
    ) -> None:
        self._saver = saver
        self._prefixes = prefixes
        self._saved = saved
        self._memory = memory
        self._disk = disk
        self.has_parts = saver is not None and saver.are_cut and saver.saves_parts
        self._settled: set[int] = set()
        """Kept sequences of which nothing is to be saved now: it is, or cannot be."""
        self.unwritten: dict[int, int] = {}
        """Kept sequences, and how many of their first tokens should be on disk."""
        self.wanted: int | None = None
        """A kept sequence that has to be saved because a prompt waits for its place."""

    def may_go(self, seq: int) -> bool:
        """Whether a kept sequence has at most a part to save. It is saved next otherwise."""
        is_saved = seq in self._settled or self._n_unsaved(seq) <= N_PART
        if not is_saved:
            self.wanted = seq
        return is_saved

    def settle(self, seq: int) -> None:
        """Nothing is to be saved of it."""
        self._settled.add(seq)

    def forget(self, seq: int) -> None:
        """It is not kept any more."""
        self._settled.discard(seq)
        self.unwritten.pop(seq, None)

    def save(self, seq: int) -> None:
        """Save what no state holds of a kept sequence, as far as that is possible."""
        if seq not in self._settled:
            self._save(seq, self._prefixes[seq])
        if seq in self.unwritten:
            self._write(seq)

    def save_part(self, seqs: Sequence[int]) -> tuple[int, int | None]:
        """Save a part of the sequence that a prompt waits for, of one for the disk, or of the first
        of *seqs* of which something is to be saved. Returns the number of tokens; and the sequence,
        if that is one of *seqs* and nothing is left to save."""
        if self.wanted is not None and self.wanted not in self._prefixes:
            self.wanted = None  # it was taken, or has left
        wanted = self.wanted
        unsaved = (seq for seq in seqs if seq not in self._settled)
        seq = wanted if wanted is not None else next(chain(self.unwritten, unsaved), None)
        if seq is None:
            return 0, None
        kept = self._prefixes[seq]
        if seq in self.unwritten:
            kept = Kept(kept.tokens[: self.unwritten[seq]], kept.n_preamble)
        n = self._save_part(seq, kept)
        if n and self._lacking(kept.tokens):
            return n, None
        if seq in self.unwritten:
            self._write(seq)
            return n, None
        self._settled.add(seq)
        self.wanted = None
        return n, seq if wanted is None and not self._n_unsaved(seq) else None

    def write_all(self) -> None:
        """Save at once what should be on disk."""
        for seq in [*self.unwritten]:
            self._write(seq)

    def _write(self, seq: int) -> None:
        kept = self._prefixes[seq]
        tokens = kept.tokens[: self.unwritten.pop(seq)]
        if self._save(seq, Kept(tokens, kept.n_preamble)) and self._disk is not None:
            self._disk.write(tokens)

    def _n_unsaved(self, seq: int) -> int:
        """How many of its tokens no state holds."""
        return sum(end - start for start, end in self._lacking(self._prefixes[seq].tokens))

    def _save(self, seq: int, kept: Kept) -> bool:
        """Save what no state holds of *kept*; False when that is not possible."""
        if 0 < kept.n_preamble < len(kept.tokens):
            self._save_tokens(seq, kept.tokens[: kept.n_preamble])
        return self._save_tokens(seq, kept.tokens)

    def _save_part(self, seq: int, kept: Kept) -> int:
        """Save its next part, or all where it has no parts; returns the number of tokens. 0:
        nothing is left to save, or that is not possible."""
        saver, tokens = self._saver, kept.tokens
        lacking = self._lacking(tokens[: kept.n_preamble]) or self._lacking(tokens)
        if not lacking or saver is None:
            return 0
        start, end = lacking[0]
        if not (self.has_parts and saver.can_save(seq, start, end)):
            return len(tokens) if self._save(seq, kept) else 0
        is_worth_it = self._has_room(seq, tokens, start)
        return end - start if is_worth_it and self._save_tokens(seq, tokens[:end]) else 0

    def _save_tokens(self, seq: int, tokens: Tokens) -> bool:
        """The same as _save() for the first *tokens* of a sequence."""
        self._saved.touch(tokens)
        ranges = self._ranges(seq, tokens)
        if ranges is None or (ranges and not self._has_room(seq, tokens, ranges[0][0])):
            return False
        return all(self._save_range(seq, tokens, start, end) for start, end in ranges)

    def _lacking(self, tokens: Tokens) -> Ranges:
        return self._saved.lacking(tokens, N_PART if self.has_parts else None)

    def _ranges(self, seq: int, tokens: Tokens) -> Ranges | None:
        """What must be saved. What cannot be saved in parts can be as a whole, where it is all that
        *seq* holds."""
        saver = self._saver
        if saver is None:
            return None
        lacking = self._lacking(tokens)
        if all(saver.can_save(seq, start, end) for start, end in lacking):
            return lacking
        return [(0, len(tokens))] if saver.can_save(seq, 0, len(tokens)) else None

    def _has_room(self, seq: int, tokens: Tokens, start: int) -> bool:
        """Whether the states of all from *start* on may be kept."""
        saver, saved = self._saver, self._saved
        assert saver is not None, "it has been asked what it can save"
        n_bytes = saver.saved_bytes(seq, start, len(tokens))
        before = saved.nodes(tokens[:start])  # without it the states would be of no use
        return saved.make_room(n_bytes, before)

    def _save_range(self, seq: int, tokens: Tokens, start: int, end: int) -> bool:
        saver, saved = self._saver, self._saved
        assert saver is not None, "it has been asked what it can save"
        n_bytes = saver.saved_bytes(seq, start, end)
        if not self._memory.has_spare(n_bytes):
            return False
        try:
            state = saver.save(seq, start, end)
        except NO_MEMORY:  # a limit of the process, which free_bytes does not know
            saved.reclaim(n_bytes)
            return False
        return saved.put(tokens[:end], start, state)
