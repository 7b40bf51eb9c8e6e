"""The KV cache of graphs that write into it: for each layer one array with a slot per sequence.

Sequences that are decoded together must be adjacent, so that their part of the array is an array
too. Therefore sequences change slots when others join or leave. There is one slot more than
sequences, so that a long one can be copied to another slot in parts, and be read meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import PAGESIZE
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import N_CHECKED, N_DISCARDED, N_PART
from spillover.runtime.onnx.graph.layout import CacheTensor
from spillover.runtime.onnx.runners.lazy_memory import LazyMemory


class SlotArray:
    """One cache tensor of all slots: (n_slots, heads, n_positions, width)."""

    def __init__(self, cache: CacheTensor, dtype: type[np.generic], n_slots: int, n: int) -> None:
        self.cache = cache
        self.dtype = dtype
        _, n_heads, _, width = (size or 0 for size in cache.shape)
        self.shape = (n_slots, n_heads, n, width)
        self._n_head_bytes = n * width * np.dtype(dtype).itemsize
        self._n_slot_bytes = n_heads * self._n_head_bytes
        self._memory = LazyMemory(n_slots * self._n_slot_bytes)
        n_bytes = n_slots * self._n_slot_bytes
        self.values: npt.NDArray[Any] = self._memory.bytes[:n_bytes].view(dtype).reshape(self.shape)

    def address(self, slot: int) -> int:
        return self._memory.address + slot * self._n_slot_bytes

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        self.values[target, :, start:end] = self.values[source, :, start:end]

    def discard(self, slot: int, n_kept: int) -> None:
        """Return the memory of all but the first *n_kept* tokens."""
        n_kept_bytes = n_kept * self.shape[3] * self.values.itemsize
        for head in range(self.shape[1]):
            start = slot * self._n_slot_bytes + head * self._n_head_bytes
            self._memory.discard(start + n_kept_bytes, self._n_head_bytes - n_kept_bytes)


def positions_per_page(cache: CacheTensor, dtype: type[np.generic]) -> int:
    """Each head begins a page if the number of positions is a multiple of this."""
    width = cache.shape[3] or 1
    return max(PAGESIZE // (width * np.dtype(dtype).itemsize), 1)


class CacheSlots:
    """Which sequence is in which slot, and how many tokens it has there."""

    def __init__(self, arrays: Sequence[SlotArray], n_seq: int) -> None:
        """The arrays have a slot more than *n_seq*."""
        self.held = [0] * n_seq
        self._arrays = arrays
        self._slot_of = list(range(n_seq))
        self._free = n_seq
        self._moving: int | None = None
        """A sequence whose first *_n_moved* tokens are in the free slot, too."""
        self._n_moved = 0
        self._n_stale = 0
        """So many tokens in the free slot, whose memory is not returned yet."""

    def slot(self, seq: int) -> int:
        return self._slot_of[seq]

    def truncate(self, seq: int, n_tokens: int) -> None:
        """Cut *seq*, and return the memory; not that of proposed tokens that were wrong, whose
        place others take at once."""
        n_cut = self.held[seq] - n_tokens
        if n_cut > N_CHECKED or (n_cut and not n_tokens):
            self._discard(self._slot_of[seq], n_tokens)
        if self._moving == seq:
            self._n_moved = min(self._n_moved, n_tokens)
        self.held[seq] = n_tokens

    def _discard(self, slot: int, n_kept: int) -> None:
        for array in self._arrays:
            array.discard(slot, n_kept)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._copy(self._slot_of[source], self._slot_of[target], self.held[target], n_tokens)
        self.held[target] = n_tokens

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        for array in self._arrays:
            array.copy(source, target, start, end)

    def parts(self, seq: int, start: int, end: int) -> list[npt.NDArray[Any]]:
        """These positions of *seq* in each array: (heads, positions, width)."""
        slot = self._slot_of[seq]
        return [array.values[slot, :, start:end] for array in self._arrays]

    def gather(self, seqs: Sequence[int]) -> list[list[int]]:
        """Make *seqs* adjacent at the least cost; return them by their slots. If more than N_PART
        tokens have to be moved for that, a part of them is at each call, and meanwhile only those
        of each group are adjacent."""
        self._discard_stale()
        n_left = N_PART
        while len(groups := self._groups(seqs)) > 1 and n_left:
            n_left -= self._move(self._next_to_move(seqs), n_left)
        return groups

    def _groups(self, seqs: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = []
        for seq in sorted(seqs, key=self.slot):
            if groups and self.slot(groups[-1][-1]) + 1 == self.slot(seq):
                groups[-1].append(seq)
            else:
                groups.append([seq])
        return groups

    def _next_to_move(self, seqs: Sequence[int]) -> int:
        """The sequence that should have the free slot, so that *seqs* become adjacent."""
        seq_at = {slot: seq for seq, slot in enumerate(self._slot_of)}
        first = self._cheapest_place(seqs)
        places = [slot for slot in range(first, first + len(seqs)) if seq_at.get(slot) not in seqs]
        empty = next((slot for slot in places if not self._n_held(seq_at.get(slot))), None)
        if empty is None:  # those who are there have to leave first
            return seq_at[places[0]]
        if empty != self._free:
            self._abandon_move()
            if self._n_stale:
                self._discard(self._free, 0)
                self._n_stale = 0
            self._slot_of[seq_at[empty]], self._free = self._free, empty
        return next(seq for seq in seqs if not first <= self.slot(seq) < first + len(seqs))

    def _n_held(self, seq: int | None) -> int:
        return 0 if seq is None else self.held[seq]

    def _cheapest_place(self, seqs: Sequence[int]) -> int:
        """The first of len(seqs) slots for which the fewest tokens must be moved."""
        weight = [0] * (len(self.held) + 1)  # positive: what must leave; negative: what may stay
        for seq, slot in enumerate(self._slot_of):
            weight[slot] = -self.held[seq] if seq in seqs else self.held[seq]
        n = len(seqs)
        costs = [sum(weight[first : first + n]) for first in range(len(weight) - n + 1)]
        return costs.index(min(costs))

    def _move(self, seq: int, n_most: int) -> int:
        """Copy so many more tokens of *seq* to the free slot, which it gets when all are there;
        returns how many."""
        if self._moving != seq:
            self._abandon_move()
            self._moving = seq
        slot, start = self._slot_of[seq], self._n_moved
        self._n_moved = min(start + n_most, self.held[seq])
        self._copy(slot, self._free, start, self._n_moved)
        n_copied = self._n_moved - start
        if self._n_moved == self.held[seq]:
            self._slot_of[seq], self._free = self._free, slot
            self._moving, self._n_moved, self._n_stale = None, 0, self.held[seq]
        return n_copied

    def _abandon_move(self) -> None:
        """Return the memory of the free slot, soon."""
        self._n_stale = max(self._n_stale, self._n_moved)
        self._moving, self._n_moved = None, 0

    def _discard_stale(self) -> None:
        if self._n_stale and self._moving is None:
            self._n_stale = max(self._n_stale - N_DISCARDED, 0)
            self._discard(self._free, self._n_stale)
