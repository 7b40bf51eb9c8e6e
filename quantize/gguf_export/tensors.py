"""Writes the tensors of a Hugging Face folder in llama.cpp's order of rows, some rows at a time.

Fused matrices of queries, keys and values, or of gate and up, become separate ones, as llama.cpp's
own converter writes them; only Phi-3 keeps them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.models.ggml_types import GGML_TYPES
from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.names import gguf_name
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.source import HEAD, WeightSource
from spillover.quantize.onnx_export.split_source import SplitSource

_N_AT_ONCE = 1 << 22
"""Values that are in memory at a time."""
_HEADS = {"q_proj": "n_head", "k_proj": "n_head_kv"}
_FUSED = ("phi3",)
"""Architectures whose matrices stay fused."""
_BLOCKS = {kind.name: kind for kind in GGML_TYPES.values()}


class StoredTensor(Struct, frozen=True, kw_only=True):
    """A tensor of the new file."""

    name: str
    """In the file."""
    source: str
    """In weights_of()."""
    shape: tuple[int, ...]
    """Rows first."""
    kind: str

    @property
    def n_bytes(self) -> int:
        block = _BLOCKS[self.kind]
        return int(np.prod(self.shape)) // block.n_values * block.n_bytes


def weights_of(source: HfSource) -> HfSource | SplitSource:
    """The matrices that the file will have."""
    return source if source.spec.family.gguf in _FUSED else SplitSource(source)


def plan_tensors(source: HfSource, kind: str) -> list[StoredTensor]:
    """What the file will hold: matrices as *kind* (auto: as they are stored), vectors in F32.
    Raises ExportError for one that llama.cpp has no name for."""
    found, weights = [], weights_of(source)
    for name in sorted(weights.names()):
        if name == HEAD and source.spec.is_tied:
            continue
        stored = gguf_name(name, source.spec.architecture)
        if stored is None:
            raise ExportError(
                f"llama.cpp has no name for {name} in models of the architecture "
                f"{source.spec.family.gguf}: export it to ONNX"
            )
        shape = weights.shape(name)
        own = kind
        if kind == "auto":
            whole = weights.stored_name(name) if isinstance(weights, SplitSource) else name
            own = source.dtype(whole)
        if len(shape) == 1 or own == "F64":
            own = "F32"
        elif shape[-1] % _BLOCKS[own].n_values:
            own = "F16"
        found.append(StoredTensor(name=stored, source=name, shape=shape, kind=own))
    return found


def write_tensor(source: WeightSource, tensor: StoredTensor, file: BinaryIO) -> None:
    """Write it at the file's end. Raises QuantizeError for values that its type cannot hold."""
    import gguf  # slow
    from gguf.quants import quantize

    kind = gguf.GGMLQuantizationType[tensor.kind]
    for rows in _rows(source, tensor):
        if not np.isfinite(rows).all():
            raise QuantizeError(
                f"{tensor.source} holds values that are no numbers: the file is damaged, or its "
                "training failed; fetch it again"
            )
        with np.errstate(over="ignore"):
            stored = rows if tensor.kind == "F32" else quantize(rows, kind)
        if tensor.kind == "F16" and not np.isfinite(stored).all():
            raise QuantizeError(
                f"{tensor.source} holds values that F16 cannot: --type BF16 or F32 can"
            )
        file.write(np.ascontiguousarray(stored).tobytes())


def _rows(source: WeightSource, tensor: StoredTensor) -> Generator[Floats]:
    """The tensor from the first row to the last, in parts that have whole heads."""
    spec = source.spec
    n_heads = _HEADS.get(tensor.source.split(".")[-2])
    turns = spec.family.rotates_neighbours and n_heads is not None
    n_rows, width = tensor.shape[0], int(np.prod(tensor.shape[1:]))
    unit = spec.n_per_head if turns else 1
    step = max(_N_AT_ONCE // (unit * width), 1) * unit
    for start in range(0, n_rows, step):
        values = source.values(tensor.source, start, start + step)
        yield _neighbours(values, spec.n_per_head) if turns else values


def _neighbours(rows: Floats, n_per_head: int) -> Floats:
    """llama.cpp has the values that are rotated together side by side; Hugging Face puts the second
    of each pair half a head further."""
    halves = rows.reshape(-1, 2, n_per_head // 2, *rows.shape[1:])
    ordered: npt.NDArray[np.float32] = halves.swapaxes(1, 2).reshape(rows.shape)
    return ordered
