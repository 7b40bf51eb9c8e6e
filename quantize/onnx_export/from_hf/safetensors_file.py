"""Reads safetensors files without trusting their headers.

Format: an 8-byte length, a JSON table name → dtype, shape, data_offsets, and the data.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.quantize.onnx_export.errors import ExportError

MAX_HEADER_BYTES = 100 << 20
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


_LFS = b"version https://git-lfs"


class _Entry(Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class SafetensorsFile:
    """The tensors of one file, read on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._size = path.stat().st_size
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            if isinstance(error, ValueError):
                raise self._incomplete() from error
            raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
        self._data = np.frombuffer(self._map, np.uint8)
        if self._map[: len(_LFS)] == _LFS:
            raise ExportError(f"{path} is a Git LFS pointer: run `git lfs pull` to get the file")
        length = int.from_bytes(self._data[:8].tobytes(), "little")
        if self._size < 8 or length > min(self._size - 8, MAX_HEADER_BYTES):
            raise self._incomplete()
        self._start = 8 + length
        self._entries = self._read_entries(self._data[8 : self._start].tobytes())

    def _incomplete(self) -> ExportError:
        return ExportError(
            f"{self.path} is not a safetensors file, or is incomplete: download it again"
        )

    def names(self) -> frozenset[str]:
        return frozenset(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name].shape)

    def dtype(self, name: str) -> str:
        return self._entries[name].dtype

    def release(self) -> None:
        """Let the system take back the memory of what was read; it can be read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def values(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """The tensor as float32, or its rows from *start* up to but not including *stop*."""
        entry = self._entries[name]
        first, last = (self._start + offset for offset in entry.data_offsets)
        stored = self._data[first:last].view(_DTYPES[entry.dtype]).reshape(entry.shape)
        rows = stored[start:stop] if entry.shape else stored
        if entry.dtype == "BF16":
            # bfloat16 is the upper half of float32.
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        return np.array(rows, np.float32)

    def _read_entries(self, header: bytes) -> dict[str, _Entry]:
        try:
            tables = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
            tables.pop("__metadata__", None)
            entries = {
                name: msgspec.json.decode(table, type=_Entry) for name, table in tables.items()
            }
        except (msgspec.DecodeError, RecursionError) as error:
            raise ExportError(f"the header of {self.path} is damaged: {error}") from error
        for name, entry in entries.items():
            self._check(name, entry)
        return entries

    def _check(self, name: str, entry: _Entry) -> None:
        if entry.dtype not in _DTYPES:
            raise ExportError(
                f"{self.path}: {name[:80]!r} has the type {entry.dtype}: export from the "
                f"original weights ({', '.join(_DTYPES)})"
            )
        n_bytes = np.dtype(_DTYPES[entry.dtype]).itemsize
        for size in entry.shape:
            if size < 0:
                raise ExportError(f"{self.path}: {name[:80]!r} has a negative size")
            n_bytes *= size
        first, last = entry.data_offsets
        if not 0 <= first <= last <= self._size - self._start or last - first != n_bytes:
            raise ExportError(
                f"{self.path} ends before its tensor {name[:80]!r} does, or its header is "
                "damaged: download it again"
            )
