"""Reads and checks the header of a GGUF file before any native code sees it.

A model file is untrusted: no number in it is trusted before a comparison with the file's size.
Format: the GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.models.ggml_types import GGML_TYPES

MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_STRING_BYTES = 1 << 22
MAX_NAME_BYTES = 65_535
MAX_DIMENSIONS = 4
MAX_SHORT_ARRAY = 1_024
"""Numeric arrays up to this length are kept; longer ones, and texts, only when asked for."""

_MOST = {
    "context_length": 1 << 40,
    "block_count": 1 << 12,
    "embedding_length": 1 << 20,
    "attention.head_count": 1 << 16,
    "attention.head_count_kv": 1 << 16,
    "attention.key_length": 1 << 16,
    "attention.value_length": 1 << 16,
}
"""Of what memory is planned by; none is below 0."""

_CHUNK_BYTES = 1 << 20

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str | list[int | float | bool] | list[str]


class TensorInfo(Struct, frozen=True, kw_only=True):
    """One tensor's place in the file; *offset* counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


class GgufHeader(Struct, frozen=True, kw_only=True):
    """What a GGUF file says about itself, without long arrays."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_size: int
    data_offset: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def _number(self, key: str, default: int = 0) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, list):
            value = max(value, default=default)
        return int(value) if isinstance(value, int | float) else default

    @property
    def n_ctx_train(self) -> int:
        return self._number("context_length")

    @property
    def n_layer(self) -> int:
        return self._number("block_count")

    @property
    def n_embd(self) -> int:
        return self._number("embedding_length")

    @property
    def _n_head(self) -> int:
        return max(self._number("attention.head_count", 1), 1)

    @property
    def head_widths(self) -> tuple[int, int]:
        """Values of a head's key, and of its value."""
        size = self.n_embd // self._n_head
        return (
            self._number("attention.key_length", size),
            self._number("attention.value_length", size),
        )

    def kv_bytes_per_cell(self, bytes_per_value: float) -> float:
        """Bytes of one KV cell over all layers (per-layer head counts: their largest)."""
        n_head_kv = self._number("attention.head_count_kv", self._n_head)
        return self.n_layer * n_head_kv * sum(self.head_widths) * bytes_per_value


def read_header(path: Path, *, keep: frozenset[str] = frozenset()) -> GgufHeader:
    """The checked header of *path*. ModelFileError says what the file is instead.

    Arrays under the keys in *keep* are kept whatever their length.
    """
    try:
        file_size = path.stat().st_size
        with path.open("rb") as file:
            _check_magic(path, file.read(64))
            # Not mapped: a disk that fails, or a file that shrinks, would end this process.
            return _Reader(path, file, file_size, keep).header()
    except FileNotFoundError:
        raise ModelFileError(f"there is no file {path}: check the path") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path} is a folder: give the .gguf file in it") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_magic(path: Path, head: bytes) -> None:
    if head[:4] == b"GGUF":
        return
    what = "no GGUF file"
    if not head:
        what = "empty"
    elif head.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer: run `git lfs pull` to get the model itself"
    elif head[:4] in (b"ggml", b"lmgg", b"tjgg", b"fmgg"):
        what = "in the old GGML format: convert it to GGUF"
    elif head.lstrip()[:1] == b"<":
        what = "a web page: the download went wrong"
    elif head[8:10] == b'{"':
        what = "a safetensors file: convert it to GGUF"
    raise ModelFileError(f"{path} is {what}")


class _Reader:
    """A cursor over the file that refuses to read past its end."""

    def __init__(
        self, path: Path, file: BinaryIO, size: int, keep: frozenset[str] = frozenset()
    ) -> None:
        self._path = path
        self._keep = keep
        self._file = file
        self._size = size
        self._at = 4
        file.seek(self._at)

    def header(self) -> GgufHeader:
        version = self._scalar("I")
        if int.from_bytes(struct.pack("<I", version), "big") in (1, 2, 3):
            raise self._error(
                "is in big-endian byte order, which this machine cannot load: get the usual "
                "little-endian file, or convert it with `gguf-convert-endian FILE little`"
            )
        if version not in (2, 3):
            raise self._error(f"has GGUF version {version}; 2 and 3 are known")
        n_tensors, n_keys = self._scalar("Q"), self._scalar("Q")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise self._error(f"claims {n_tensors} tensors and {n_keys} keys")
        metadata = self._metadata(n_keys)
        tensors = tuple(self._tensor() for _ in range(n_tensors))
        if len({tensor.name for tensor in tensors}) != n_tensors:
            raise self._error("names a tensor twice")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._error(f"has the alignment {alignment}, which is not a power of two")
        data_offset = -(-self._at // alignment) * alignment
        header = GgufHeader(
            version=version,
            metadata=metadata,
            tensors=tensors,
            file_size=self._size,
            data_offset=data_offset,
        )
        for tensor in tensors:
            self._check_place(tensor, header)
        self._check_sizes(header)
        return header

    def _metadata(self, n_keys: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(n_keys):
            key = self._string(MAX_NAME_BYTES)
            value = self._value(self._scalar("I"), keep=key in self._keep)
            if key in metadata:
                raise self._error(f"has the key {key[:80]!r} twice")
            if value is not None:
                metadata[key] = value
        return metadata

    def _value(self, kind: int, *, keep: bool) -> Value | None:
        if kind == _STRING:
            return self._string(MAX_STRING_BYTES)
        if kind == _ARRAY:
            return self._array(keep=keep)
        return self._scalar_of(kind)

    def _scalar_of(self, kind: int) -> int | float | bool:
        code = _SCALARS.get(kind)
        if code is None:
            raise self._error(f"has a value of the unknown type {kind}")
        return self._scalar(code)

    def _array(self, *, keep: bool) -> Value | None:
        kind, length = self._scalar("I"), self._scalar("Q")
        if kind == _STRING:
            self._need(8 * length)
            if keep:
                return [self._string(MAX_NAME_BYTES) for _ in range(length)]
            self._skip_texts(length)
            return None
        code = _SCALARS.get(kind)
        if code is None:
            raise self._error(f"has an array of the unknown type {kind}")
        n_bytes = length * struct.calcsize(code)
        if length > MAX_SHORT_ARRAY and not keep:
            self._skip(n_bytes)
            return None
        return list(struct.unpack(f"<{length}{code}", self._bytes(n_bytes)))

    def _tensor(self) -> TensorInfo:
        name = self._string(MAX_NAME_BYTES)
        n_dimensions = self._scalar("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise self._error(f"gives {name[:80]!r} {n_dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(n_dimensions))
        return TensorInfo(
            name=name, shape=shape, type_id=self._scalar("I"), offset=self._scalar("Q")
        )

    def _check_place(self, tensor: TensorInfo, header: GgufHeader) -> None:
        n_values = 1
        for size in tensor.shape:
            if not 0 < size < 1 << 40:
                raise self._error(f"gives {tensor.name[:80]!r} the shape {tensor.shape}")
            n_values *= size
        kind = GGML_TYPES.get(tensor.type_id)
        n_bytes = 0 if kind is None else n_values // kind.n_values * kind.n_bytes
        if header.data_offset + tensor.offset + n_bytes > self._size:
            raise self._error(
                f"ends before its tensor {tensor.name[:80]!r} does: it is damaged or "
                "incomplete: download it again"
            )

    def _check_sizes(self, header: GgufHeader) -> None:
        for name, most in _MOST.items():
            key = f"{header.architecture}.{name}"
            value = header.metadata.get(key)
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not 0 <= number <= most:  # NaN is not, too
                    raise self._error(f"has the impossible {key} {number}")

    def _scalar(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self._bytes(struct.calcsize(code)))[0]
        return value

    def _string(self, most: int) -> str:
        length = self._scalar("Q")
        if length > most:
            raise self._error(f"has a text of {length} bytes where {most} are allowed")
        return self._bytes(length).decode("utf-8", "replace")

    def _bytes(self, n: int) -> bytes:
        """The next *n* bytes."""
        self._need(n)
        content = self._file.read(n)
        if len(content) < n:  # it has shrunk
            raise self._ends()
        self._at += n
        return content

    def _skip(self, n: int) -> None:
        self._need(n)
        self._at += n
        self._file.seek(self._at)

    def _skip_texts(self, n: int) -> None:
        """In few steps for each: vocabularies have some hundred thousand."""
        length_at = struct.Struct("<Q").unpack_from
        while n:
            self._need(8)
            chunk, at = self._file.read(_CHUNK_BYTES), 0
            try:
                while n:
                    at += 8 + length_at(chunk, at)[0]
                    n -= 1
            except (struct.error, OverflowError):  # behind the chunk, or behind any file
                if not at:
                    raise self._ends() from None
            self._skip(at)

    def _need(self, n: int) -> None:
        if n > self._size - self._at:
            raise self._ends()

    def _ends(self) -> ModelFileError:
        return self._error("ends inside its header: it is damaged; download it again")

    def _error(self, what: str) -> ModelFileError:
        return ModelFileError(f"the GGUF file {self._path} {what}")
