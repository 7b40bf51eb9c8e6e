"""Memory that the system provides page by page, on the first write.

So a KV cache can have room for the longest context of every sequence, in arrays that never move,
but only takes the memory that its tokens need.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from spillover.runtime.errors import ModelError

_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class LazyMemory:
    """*n_bytes* of zeros at a fixed address. Raises ModelError when there is no room."""

    def __init__(self, n_bytes: int) -> None:
        # Never empty, and with a spare page for kernels that read one vector past the end.
        size = -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE + mmap.PAGESIZE
        try:
            self._map = _mapped(size)
        except (OSError, OverflowError, ValueError) as error:
            raise ModelError(
                f"there is no address space for a KV cache of {n_bytes / 2**30:.1f} GiB "
                f"({error}): lower n_ctx or n_parallel"
            ) from error
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self.address = int(self.bytes.ctypes.data)

    def discard(self, start: int, n_bytes: int) -> None:
        """Return the whole pages of a range to the system; they then hold zeros."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        n_whole = (start + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if n_whole > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, n_whole)


def _mapped(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    memory = mmap.mmap(-1, size, flags=flags)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # The first token in a huge page would take all of it.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
