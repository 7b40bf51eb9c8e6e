"""A GGUF file: its tensors under Hugging Face's names and in Hugging Face's order of rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from spillover.models.errors import ModelFileError
from spillover.models.ggml_types import GGML_TYPES, GgmlType
from spillover.models.gguf_header import GgufHeader, TensorInfo
from spillover.models.gguf_model import read_model
from spillover.quantize.onnx_export.blocks import BLOCK, Blocks, Bytes, Floats, pack
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.names import hf_name
from spillover.quantize.onnx_export.from_gguf.rotary import DIVISORS
from spillover.quantize.onnx_export.from_gguf.spec import model_type, read_spec
from spillover.quantize.onnx_export.spec import ModelSpec

VOCABULARY_KEYS = frozenset(
    f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "scores", "token_type")
)

_EXACT_BITS = {"Q4_0": 4, "Q8_0": 8}
_WHOLE = {"F32", "F16", "BF16", "F64"}
"""Types of weights that are not quantized."""

_Rows = slice | np.typing.NDArray[np.intp]


class GgufSource:
    """Weights of a file or of its parts, dequantized when asked for. Raises ExportError."""

    notes = ()

    def __init__(self, path: Path) -> None:
        try:
            model = read_model(path, keep=VOCABULARY_KEYS)
        except ModelFileError as error:
            raise ExportError(str(error)) from error
        self.path = model.path
        self.header: GgufHeader = replace(model.parts[0][1], tensors=model.tensors)
        """The first file's, with the tensors of all."""
        kind = model_type(self.header)
        self._tensors = {hf_name(tensor.name, kind): tensor for tensor in self.header.tensors}
        self._data: dict[str, Bytes] = {}
        """By tensor: the data of its file."""
        for part, header in model.parts:
            data = np.memmap(part, np.uint8, "r")[header.data_offset :]
            self._data |= {tensor.name: data for tensor in header.tensors}
        divisors = {name: self._tensors.pop(name) for name in DIVISORS & self._tensors.keys()}
        self.spec: ModelSpec = read_spec(
            self.header,
            rotary_divisors={name: self._dequantized(tensor) for name, tensor in divisors.items()},
            is_tied="lm_head.weight" not in self._tensors,
        )

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(reversed(self._tensors[name].shape))

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        order = self._order(name)
        rows = slice(start, stop) if order is None else order[start:stop]
        return self._dequantized(self._tensors[name], rows)

    def quantized_types(self) -> dict[str, str]:
        """The type of each matrix that is stored in a quantized type."""
        kinds = {name: self._kind(name) for name in self._tensors if len(self.shape(name)) > 1}
        return {name: kind for name, kind in kinds.items() if kind not in _WHOLE}

    def exact_bits(self, name: str) -> int | None:
        return _EXACT_BITS.get(self._kind(name))

    def _kind(self, name: str) -> str:
        type_id = self._tensors[name].type_id
        return GGML_TYPES[type_id].name if type_id in GGML_TYPES else f"type {type_id}"

    def blocks(self, name: str, bits: int) -> Blocks | None:
        tensor, kind, exact_bits = self._tensors[name], self._kind(name), self.exact_bits(name)
        if exact_bits is None or bits < exact_bits:
            return None
        raw = self._raw(tensor)
        n_rows, n_values = self.shape(name)
        raw = raw.reshape(n_rows, n_values // BLOCK, -1)
        order = self._order(name)
        if order is not None:
            raw = raw[order]
        quanta = _q8_0(raw) if kind == "Q8_0" else _q4_0(raw, bits)
        scales = np.ascontiguousarray(raw[..., :2]).view("<f2")[..., 0].astype(np.float32)
        return Blocks(bits=bits, n_values=n_values, packed=quanta, scales=scales)

    def _order(self, name: str) -> np.typing.NDArray[np.intp] | None:
        """The indices of the stored rows in Hugging Face's order; None where it is the same."""
        spec = self.spec
        heads = {
            "q_proj": (spec.n_head,),
            "k_proj": (spec.n_head_kv,),
            "qkv_proj": (spec.n_head, spec.n_head_kv),
        }.get(name.split(".")[-2], ())
        if not heads or not spec.family.rotates_neighbours:
            return None
        order = np.arange(self.shape(name)[0])
        start = 0
        for n_head in heads:
            rows = order[start : start + n_head * spec.n_per_head]
            start += len(rows)
            rows[:] = rows.reshape(n_head, -1, 2).swapaxes(1, 2).reshape(-1)
        return order

    def _type_of(self, tensor: TensorInfo) -> GgmlType:
        kind = GGML_TYPES.get(tensor.type_id)
        if kind is None or tensor.shape[0] % kind.n_values:
            raise ExportError(
                f"{self.path}: {tensor.name[:80]!r} has the type {tensor.type_id} and rows of "
                f"{tensor.shape[0]} values, which cannot be read here: use a file with another type"
            )
        return kind

    def _raw(self, tensor: TensorInfo) -> Bytes:
        kind = self._type_of(tensor)
        n_bytes = math.prod(tensor.shape) // kind.n_values * kind.n_bytes
        data = self._data[tensor.name]
        return np.asarray(data[tensor.offset : tensor.offset + n_bytes])

    def _dequantized(self, tensor: TensorInfo, rows: _Rows = slice(None)) -> Floats:
        import gguf  # slow
        from gguf.quants import dequantize

        kind = self._type_of(tensor)
        row_bytes = tensor.shape[0] // kind.n_values * kind.n_bytes
        stored = self._raw(tensor).reshape(-1, row_bytes)
        is_vector = len(tensor.shape) == 1
        if not is_vector:
            stored = stored[rows]
        try:
            values = dequantize(np.ascontiguousarray(stored), gguf.GGMLQuantizationType[kind.name])
        except (KeyError, NotImplementedError) as error:
            raise ExportError(
                f"{self.path}: {tensor.name[:80]!r} has the type {kind.name}, which cannot be "
                "read here: use a file with another type"
            ) from error
        found = np.asarray(values, np.float32)
        return found.reshape(-1)[rows] if is_vector else found


def _q8_0(raw: Bytes) -> Bytes:
    """Signed bytes → bytes around 128."""
    return np.ascontiguousarray(raw[..., 2:]) ^ np.uint8(128)


def _q4_0(raw: Bytes, bits: int) -> Bytes:
    """Q4_0 holds the first half of a block in the lower four bits and the second in the upper."""
    quanta = np.concatenate([raw[..., 2:] & 15, raw[..., 2:] >> 4], -1)
    if bits == 4:
        return pack(quanta)
    return quanta + np.uint8(120)
