"""Reads and writes importance matrices: how strongly each input of each matrix was used.

Formats: llama.cpp's imatrix.gguf (tools/imatrix), whose tensors NAME.in_sum2 hold the sums of the
squares of the inputs of NAME, and NAME.counts the number of tokens; and its older .dat files.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import GgufHeader, TensorInfo, read_header
from spillover.quantize.errors import QuantizeError

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _N_CHUNKS, _CHUNK_SIZE = (
    f"imatrix.{name}" for name in ("datasets", "chunk_count", "chunk_size")
)
_F32 = 0
_MAX_NAME_BYTES = 1024
_MAX_BYTES = 8 << 30

Floats = npt.NDArray[np.float32]


class Imatrix(Struct, frozen=True, kw_only=True):
    """Sums of squares of inputs, over the tokens of a text."""

    sums: dict[str, Floats]
    """By name of a matrix: (experts, inputs); one expert where there are none."""
    counts: dict[str, Floats]
    """By name of a matrix: the tokens that each expert saw, (experts,)."""
    n_chunks: int
    chunk_size: int
    """Tokens of each chunk."""
    datasets: tuple[str, ...]
    """Names of the texts."""

    def means(self) -> dict[str, Floats]:
        """The mean square of each input, (experts * inputs,); 1 for experts that saw nothing."""
        return {name: _mean(sums, self.counts[name]) for name, sums in self.sums.items()}


def _mean(sums: Floats, counts: Floats) -> Floats:
    seen = counts[:, None]
    means = np.divide(sums, seen, out=np.ones_like(sums), where=seen > 0)
    return np.ascontiguousarray(means.reshape(-1), np.float32)


def read_imatrix(path: Path) -> Imatrix:
    """Raises QuantizeError for a file that is none."""
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        if path.stat().st_size > _MAX_BYTES:
            raise QuantizeError(f"{path} is too large for an importance matrix")
        found = _from_gguf(path) if is_gguf else _from_dat(path.read_bytes(), path)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be read: {error.strerror or error}") from error
    except ModelFileError as error:
        raise QuantizeError(str(error)) from error
    if not found.sums or not all(np.isfinite(sums).all() for sums in found.means().values()):
        raise _no_imatrix(path)
    return found


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write the file *path* in llama.cpp's format. Raises OSError."""
    import gguf  # slow

    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array(_DATASETS, list(imatrix.datasets))
    writer.add_uint32(_N_CHUNKS, imatrix.n_chunks)
    writer.add_uint32(_CHUNK_SIZE, imatrix.chunk_size)
    for name, sums in sorted(imatrix.sums.items()):
        writer.add_tensor(f"{name}{_SUMS}", np.ascontiguousarray(sums, np.float32))
        counts = np.ascontiguousarray(imatrix.counts[name][:, None], np.float32)
        writer.add_tensor(f"{name}{_COUNTS}", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _from_gguf(path: Path) -> Imatrix:
    header = read_header(path, keep=frozenset({_DATASETS}))
    data = np.memmap(path, np.uint8, "r")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    sums, counts = {}, {}
    for name, tensor in tensors.items():
        if not name.endswith(_SUMS):
            continue
        matrix = name.removesuffix(_SUMS)
        of_counts = tensors.get(f"{matrix}{_COUNTS}")
        if of_counts is None or {tensor.type_id, of_counts.type_id} != {_F32}:
            raise _no_imatrix(path)
        seen = np.round(_values(data, header, of_counts).reshape(-1))
        values = _values(data, header, tensor)
        if not len(seen) or values.size % len(seen):
            raise _no_imatrix(path)
        sums[matrix], counts[matrix] = values.reshape(len(seen), -1), seen
    datasets = header.metadata.get(_DATASETS, [])
    return Imatrix(
        sums=sums,
        counts=counts,
        n_chunks=_number(header, _N_CHUNKS),
        chunk_size=_number(header, _CHUNK_SIZE),
        datasets=tuple(map(str, datasets)) if isinstance(datasets, list) else (),
    )


def _values(data: npt.NDArray[np.uint8], header: GgufHeader, tensor: TensorInfo) -> Floats:
    first = header.data_offset + tensor.offset
    n_bytes = 4 * int(np.prod(tensor.shape))
    return np.array(data[first : first + n_bytes]).view(np.float32)


def _number(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _from_dat(content: bytes, path: Path) -> Imatrix:
    """Of each entry: the length of its name, the name, the number of calls, the number of values,
    and the values, which are means multiplied by the number of calls."""
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        if at > len(content):
            raise _no_imatrix(path)
        value: int = struct.unpack_from("<i", content, at - 4)[0]
        return value

    sums, counts = {}, {}
    for _ in range(number()):
        length = number()
        if not 0 < length <= _MAX_NAME_BYTES:
            raise _no_imatrix(path)
        name = content[at : at + length].decode("utf-8", "replace")
        at += length
        n_calls, n_values = number(), number()
        if n_calls < 1 or not 0 < 4 * n_values <= len(content) - at:
            raise _no_imatrix(path)
        sums[name] = np.frombuffer(content, "<f4", n_values, at).astype(np.float32)[None]
        counts[name] = np.array([n_calls], np.float32)
        at += 4 * n_values
    return Imatrix(
        sums=sums,
        counts=counts,
        n_chunks=int(max((n_calls[0] for n_calls in counts.values()), default=0)),
        chunk_size=0,
        datasets=(path.name,),
    )


def _no_imatrix(path: Path) -> QuantizeError:
    return QuantizeError(
        f"{path} is no importance matrix, or is damaged: `spillover quantize imatrix` makes one"
    )
