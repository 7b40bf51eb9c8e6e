"""Looks whether the system has memory for more KV cells, where a cache takes it as it fills."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from spillover.runtime.backend import BackendInfo
from spillover.runtime.machine.device import available_memory, memory_floor
from spillover.runtime.options import EngineOptions

_STEP = 512
"""The system is asked once for this many cells: that takes about a tenth of a millisecond."""

_ASK_AGAIN_S = 5.0
"""Others are not asked for memory more often."""

_SAVED_SHARE = 0.25
_MOST_SAVED_BYTES = 2 * 2**30

_log = logging.getLogger(__name__)


class KvMemory:
    """Counts the cells for which there was memory. *bytes_per_cell* 0: all of it is taken already,
    and every number of cells is allowed. *is_returned*: cells that become free return theirs.
    *reclaim* gives back so many bytes, as far as it holds them, of what can be made again; then
    *ask* asks others for them, unless that is not worth it, and says whether it did."""

    def __init__(
        self,
        bytes_per_cell: float,
        *,
        is_returned: bool,
        free_bytes: Callable[[], int] = available_memory,
        reclaim: Callable[[int], None] = lambda n_bytes: None,
        ask: Callable[[int], bool] = lambda n_bytes: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_per_cell = bytes_per_cell
        self._is_returned = is_returned
        self._free_bytes = free_bytes
        self._reclaim = reclaim
        self._ask = ask
        self._clock = clock
        self._asked_at = float("-inf")
        self.is_waiting = False
        """Others were asked and have not answered yet."""
        self._left_bytes = memory_floor()
        self._n_cells = 0
        self._was_refused = False

    def allows(self, n_cells: int) -> bool:
        """Whether there is memory for so many cells in all; if so, they count as taken."""
        if n_cells <= self._n_cells or not self._bytes_per_cell:
            return True
        for n in (-(-n_cells // _STEP) * _STEP, n_cells):
            if self.has_spare((n - self._n_cells) * self._bytes_per_cell, asks=True):
                self._n_cells = n
                self._was_refused = False
                return True
        self._refuse(n_cells)
        return False

    def has_spare(self, n_bytes: float, *, asks: bool = False) -> bool:
        """Whether the system has so much memory to spare, if necessary at the cost of what can be
        made again. *asks* others otherwise: for an answer, and not for what makes it faster."""
        missing_bytes = self._missing_bytes(n_bytes)
        if missing_bytes > 0:
            self._reclaim(missing_bytes)
            missing_bytes = self._missing_bytes(n_bytes)
        if missing_bytes > 0 and asks:
            self._ask_others(missing_bytes)
        return missing_bytes <= 0

    def _ask_others(self, n_bytes: int) -> None:
        now = self._clock()
        may_ask = not self.is_waiting and now - self._asked_at > _ASK_AGAIN_S
        if may_ask and self._ask(n_bytes):
            self.is_waiting, self._asked_at = True, now

    def note_answer(self) -> None:
        """Others have given back what they could."""
        self.is_waiting = False

    def _missing_bytes(self, n_bytes: float) -> int:
        return math.ceil(n_bytes - self._free_bytes() + self._left_bytes)

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


def saved_prefix_bytes(options: EngineOptions, info: BackendInfo, free_bytes: int) -> int:
    """How much memory the states of finished conversations may take in all. Unless the owner says,
    a share of the *free_bytes* that the KV cache leaves."""
    if options.prefix_cache_mb is not None:
        return int(options.prefix_cache_mb * 2**20)
    spare_bytes = free_bytes - info.n_kv * info.kv_bytes_per_cell
    return int(min(max(spare_bytes, 0) * _SAVED_SHARE, _MOST_SAVED_BYTES))
