"""The KV cache of graphs that write into it: for each layer one array with a slot per sequence.

Sequences that are decoded together must be adjacent, so that their part of the array is an array
too. Therefore sequences change slots when others join or leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from mmap import PAGESIZE
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import N_CHECKED
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

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self.values[target, :, :n_tokens] = self.values[source, :, :n_tokens]

    def swap(self, a: int, b: int, n_tokens: int) -> None:
        first = self.values[a, :, :n_tokens].copy()
        self.copy(b, a, n_tokens)
        self.values[b, :, :n_tokens] = first

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

    def __init__(self, arrays: Sequence[SlotArray], n_slots: int) -> None:
        self.held = [0] * n_slots
        self._arrays = arrays
        self._slot_of = list(range(n_slots))

    def slot(self, seq: int) -> int:
        return self._slot_of[seq]

    def truncate(self, seq: int, n_tokens: int) -> None:
        """Cut *seq*, and return the memory; not that of proposed tokens that were wrong, whose
        place others take at once."""
        n_cut = self.held[seq] - n_tokens
        if n_cut > N_CHECKED or (n_cut and not n_tokens):
            for array in self._arrays:
                array.discard(self._slot_of[seq], n_tokens)
        self.held[seq] = n_tokens

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        for array in self._arrays:
            array.copy(self._slot_of[source], self._slot_of[target], n_tokens)
        self.held[target] = n_tokens

    def parts(self, seq: int, start: int, end: int) -> list[npt.NDArray[Any]]:
        """These positions of *seq* in each array: (heads, positions, width)."""
        slot = self._slot_of[seq]
        return [array.values[slot, :, start:end] for array in self._arrays]

    def gather(self, seqs: Sequence[int]) -> int:
        """Make *seqs* adjacent at the least cost; return their first slot."""
        slots = sorted(self._slot_of[seq] for seq in seqs)
        if slots[-1] - slots[0] + 1 == len(slots):
            return slots[0]
        first = self._cheapest_place(seqs)
        places = range(first, first + len(seqs))
        # Sequences already there stay; the others take the remaining places.
        wanted = set(seqs)
        strangers = [seq for seq in self._seqs_in(places) if seq not in wanted]
        outside = [seq for seq in seqs if self._slot_of[seq] not in places]
        for seq, stranger in zip(outside, strangers, strict=True):
            self._swap(seq, stranger)
        return first

    def _cheapest_place(self, seqs: Sequence[int]) -> int:
        """The first of len(seqs) slots for which the fewest tokens must be moved."""
        wanted = set(seqs)
        weight = [0] * len(self.held)  # positive: what must leave; negative: what may stay
        for seq, slot in enumerate(self._slot_of):
            weight[slot] = -self.held[seq] if seq in wanted else self.held[seq]
        n = len(seqs)
        costs = [sum(weight[first : first + n]) for first in range(len(weight) - n + 1)]
        return costs.index(min(costs))

    def _seqs_in(self, slots: Iterable[int]) -> list[int]:
        seq_at = {slot: seq for seq, slot in enumerate(self._slot_of)}
        return [seq_at[slot] for slot in slots]

    def _swap(self, a: int, b: int) -> None:
        if self.held[a] < self.held[b]:
            a, b = b, a
        slot_a, slot_b = self._slot_of[a], self._slot_of[b]
        for array in self._arrays:
            if self.held[b]:
                array.swap(slot_a, slot_b, self.held[a])
                array.discard(slot_a, self.held[b])
            else:
                array.copy(slot_a, slot_b, self.held[a])
                array.discard(slot_a, 0)
        self._slot_of[a], self._slot_of[b] = slot_b, slot_a
