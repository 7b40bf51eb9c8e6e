"""Returns memory that llama.cpp has only filled with zeros.

llama.cpp clears a new KV cache, so that the system has to provide all of it: 1.5 GB for a model of
98 MB, before the first token. Private memory that is returned to the system holds zeros when it is
touched again, so returning a page of zeros changes nothing. Afterwards the cache takes memory page
by page, as tokens are written into it.

Which memory the cache has is not asked of llama.cpp, which does not say. What counts is what a page
holds: large private mappings that appeared meanwhile, and in them what is resident and all zeros.
No other thread may fill a large new array with values at the same time: it could write between the
look at a page and its return. A worker makes its contexts while it loads and has no such thread.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

CAN_BE_RETURNED = sys.platform == "linux"
"""Other systems do not promise zeros in the place of what was returned."""

_LEAST_BYTES = 4 * 2**20
"""Smaller mappings are left alone; the C library keeps small allocations elsewhere anyway."""

_CHUNK_BYTES = 2**20
"""What is looked at and returned at once; a multiple of every page size in use."""

Range: TypeAlias = tuple[int, int]
"""The first address and the one after the last."""

T = TypeVar("T")


def without_zeros(make: Callable[[], T]) -> T:
    """The result of *make*, after the zeros that it has written were returned to the system; where
    CAN_BE_RETURNED."""
    before = _large_mappings()
    made = make()
    libc = ctypes.CDLL(None)
    for mapping in _large_mappings():
        for new in _beyond(mapping, before):
            _return_zeros(libc, *new)
    return made


def _large_mappings() -> list[Range]:
    """The private anonymous mappings of this process that may be written, without the heap."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            addresses, kind, _, _, inode, *name = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            if kind == "rw-p" and inode == "0" and not name and end - start >= _LEAST_BYTES:
                found.append((start, end))
    return found


def _beyond(mapping: Range, before: list[Range]) -> list[Range]:
    """The large parts of *mapping* that are not in *before*, which is in ascending order: the
    system joins neighbours into one mapping."""
    parts = []
    start, end = mapping
    for first, last in before:
        if last > start and first < end:
            parts.append((start, first))
            start = max(start, last)
    parts.append((start, end))
    return [part for part in parts if part[1] - part[0] >= _LEAST_BYTES]


def _return_zeros(libc: Any, start: int, end: int) -> None:
    """Return what is resident and zero; the cache gets small pages, since the first token in a
    huge one would take all of it."""
    is_resident = _resident_pages(libc, start, end)
    n_pages = _CHUNK_BYTES // mmap.PAGESIZE
    for i in range(0, len(is_resident), n_pages):
        address = start + i * mmap.PAGESIZE
        n_bytes = min(_CHUNK_BYTES, end - address)
        if is_resident[i : i + n_pages].any() and _is_zero(address, n_bytes):
            _advise(libc, address, n_bytes, mmap.MADV_NOHUGEPAGE)
            _advise(libc, address, n_bytes, mmap.MADV_DONTNEED)


def _resident_pages(libc: Any, start: int, end: int) -> npt.NDArray[np.bool_]:
    pages = np.zeros((end - start) // mmap.PAGESIZE, dtype=np.uint8)
    asked = ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_void_p(pages.ctypes.data)
    libc.mincore(*asked)  # where it fails nothing seems resident, and nothing is returned
    return (pages & 1).astype(np.bool_)


def _is_zero(address: int, n_bytes: int) -> bool:
    words = (ctypes.c_uint64 * (n_bytes // 8)).from_address(address)
    return not np.ctypeslib.as_array(words).any()


def _advise(libc: Any, address: int, n_bytes: int, advice: int) -> None:
    """Where the system refuses, as for locked memory, everything stays as it is."""
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(n_bytes), ctypes.c_int(advice))
