"""What becomes of the memory that work with large arrays frees."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD (glibc's malloc.h)."""
_LARGE_BYTES = 1_000_000


def return_large_arrays() -> None:
    """Have arrays of a megabyte and more go back to the system as soon as they are freed, for the
    rest of this process. By itself glibc keeps up to 32 MiB of each, and small objects between
    them: an export with calibration held a third more than it used."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # other C libraries have no such setting
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
