"""Counts exactly which sequences hold how many cells of the KV cache, including shared prefixes.

The backend's cache is authoritative. This is the scheduler's own account of it, which shows before
a call whether there will be room.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


class KvLedger:
    """*n_kv* cells for *n_seq* sequences; a cell may belong to several of them."""

    def __init__(self, n_kv: int, n_seq: int) -> None:
        self._free = list(range(n_kv))
        self._holders = np.zeros(n_kv, dtype=np.int32)
        self._cells: list[list[int]] = [[] for _ in range(n_seq)]

    @property
    def n_free(self) -> int:
        return len(self._free)

    @property
    def n_used(self) -> int:
        return len(self._holders) - len(self._free)

    def n_tokens(self, seq: int) -> int:
        return len(self._cells[seq])

    def extend(self, seq: int, n: int) -> None:
        """Allocate cells for the next *n* tokens of *seq*; the caller has checked n_free."""
        if n == 1:
            cell = self._free.pop()
            self._holders[cell] = 1
            self._cells[seq].append(cell)
            return
        start = len(self._free) - n
        assert start >= 0, "the ledger has no room: check n_free first"
        cells = self._free[start:]
        del self._free[start:]
        self._holders[cells] = 1
        self._cells[seq].extend(cells)

    def share(self, source: int, target: int, n: int) -> None:
        """Share the first *n* cells of *source* with the empty *target*."""
        assert not self._cells[target], "only an empty sequence may take a shared prefix"
        cells = self._cells[source][:n]
        self._holders[cells] += 1
        self._cells[target] = cells

    def truncate(self, seq: int, n: int) -> None:
        """Cut *seq* to its first *n* cells."""
        cells = self._cells[seq][n:]
        if not cells:
            return
        del self._cells[seq][n:]
        index = np.array(cells)
        self._holders[index] -= 1
        self._free.extend(index[self._holders[index] == 0].tolist())

    def n_exclusive(self, seqs: Collection[int]) -> int:
        """Number of cells that would become free if all of *seqs* were dropped."""
        held = np.zeros_like(self._holders)
        for seq in seqs:
            held[self._cells[seq]] += 1
        return int(np.count_nonzero((held > 0) & (held == self._holders)))
