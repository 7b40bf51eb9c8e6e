"""Looks whether the system has memory for more KV cells, where a cache takes it as it fills."""

from __future__ import annotations

import logging
from collections.abc import Callable

from spillover.runtime.device import available_memory, total_memory

_STEP = 512
"""The system is asked once for this many cells: that takes about a tenth of a millisecond."""

_LEFT_BYTES = 128 * 2**20
_LEFT_SHARE = 0.05
"""So much memory, or this share of all where that is less, is left to other programs."""

_log = logging.getLogger(__name__)


class KvMemory:
    """Counts the cells for which there was memory. *bytes_per_cell* 0: all of it is taken already,
    and every number of cells is allowed. *is_returned*: cells that become free return theirs."""

    def __init__(
        self,
        bytes_per_cell: float,
        *,
        is_returned: bool,
        free_bytes: Callable[[], int] = available_memory,
    ) -> None:
        self._bytes_per_cell = bytes_per_cell
        self._is_returned = is_returned
        self._free_bytes = free_bytes
        self._left_bytes = min(_LEFT_BYTES, _LEFT_SHARE * total_memory())
        self._n_cells = 0
        self._was_refused = False

    def allows(self, n_cells: int) -> bool:
        """Whether there is memory for so many cells in all; if so, they count as taken."""
        if n_cells <= self._n_cells or not self._bytes_per_cell:
            return True
        spare_bytes = self._free_bytes() - self._left_bytes
        for n in (-(-n_cells // _STEP) * _STEP, n_cells):
            if (n - self._n_cells) * self._bytes_per_cell <= spare_bytes:
                self._n_cells = n
                self._was_refused = False
                return True
        self._refuse(n_cells)
        return False

    def _refuse(self, n_cells: int) -> None:
        if not self._was_refused:
            _log.warning(
                "too little free memory for %d instead of %d KV cells: answers wait, or end early. "
                "Close other programs, or lower n_kv or n_parallel.",
                n_cells,
                self._n_cells,
            )
        self._was_refused = True

    def shrink(self, n_cells: int) -> None:
        """Note that only so many cells are in use now."""
        if self._is_returned:
            self._n_cells = min(self._n_cells, n_cells)
