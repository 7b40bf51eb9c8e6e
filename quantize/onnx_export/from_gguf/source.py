"""A GGUF file: its tensors under Hugging Face's names and in Hugging Face's order of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spillover.models.errors import ModelFileError
from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import GgufHeader, TensorInfo, read_header
from spillover.quantize.onnx_export.blocks import BLOCK, Blocks, Bytes, Floats, pack
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.spec import FREQUENCY_FACTORS, read_spec
from spillover.quantize.onnx_export.spec import ModelSpec

_TOP = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
VOCABULARY_KEYS = frozenset(
    f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "scores", "token_type")
)


_EXACT_BITS = {"Q4_0": 4, "Q8_0": 8}
_WHOLE = {"F32", "F16", "BF16", "F64"}
"""Types of weights that are not quantized."""

_Rows = slice | np.typing.NDArray[np.intp]


class GgufSource:
    """Weights of one file, dequantized when asked for. Raises ExportError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.header: GgufHeader = read_header(path, keep=VOCABULARY_KEYS)
        except ModelFileError as error:
            raise ExportError(str(error)) from error
        if self.header.metadata.get("split.count", 1) not in (0, 1):
            raise ExportError(f"{path} is one part of a split model: merge the parts first")
        self._tensors = {_hf_name(tensor.name): tensor for tensor in self.header.tensors}
        self._data = np.memmap(path, np.uint8, "r")
        factors = self._tensors.pop(FREQUENCY_FACTORS, None)
        self.spec: ModelSpec = read_spec(
            self.header,
            frequency_factors=None if factors is None else self._dequantized(factors),
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
        """The indices of the stored rows in Hugging Face's order.

        In files of the architecture llama, the values of a head that are rotated together are
        neighbours; Hugging Face puts the second of each pair half a head further.
        """
        heads = {"q_proj": self.spec.n_head, "k_proj": self.spec.n_head_kv}.get(
            name.split(".")[-2], 0
        )
        if not heads or self.header.architecture != "llama":
            return None
        n_rows = self.shape(name)[0]
        return np.arange(n_rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def _raw(self, tensor: TensorInfo) -> Bytes:
        kind = GGML_TYPES[tensor.type_id]
        n_bytes = int(np.prod(tensor.shape)) // kind.n_values * kind.n_bytes
        first = self.header.data_offset + tensor.offset
        return np.asarray(self._data[first : first + n_bytes])

    def _dequantized(self, tensor: TensorInfo, rows: _Rows = slice(None)) -> Floats:
        import gguf  # slow
        from gguf.quants import dequantize

        if tensor.type_id not in GGML_TYPES:
            raise ExportError(f"{self.path}: {tensor.name[:80]!r} has an unknown type")
        kind = GGML_TYPES[tensor.type_id]
        width = tensor.shape[0]
        stored = self._raw(tensor).reshape(-1, width // kind.n_values * kind.n_bytes)
        if len(tensor.shape) > 1:
            stored = stored[rows]
        try:
            values = dequantize(np.ascontiguousarray(stored), gguf.GGMLQuantizationType[kind.name])
        except (KeyError, NotImplementedError) as error:
            raise ExportError(
                f"{self.path}: {tensor.name[:80]!r} has the type {kind.name}, which cannot be "
                "read here: use a file with another type"
            ) from error
        found = np.asarray(values, np.float32)
        return found.reshape(-1) if len(tensor.shape) == 1 else found


def _hf_name(stored: str) -> str:
    """Hugging Face's name of a GGUF tensor; unknown names are returned as they are."""
    stem, _, end = stored.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{end}"
    block, _, rest = stem.removeprefix("blk.").partition(".")
    if stem.startswith("blk.") and rest in _IN_LAYER:
        return f"layers.{block}.{_IN_LAYER[rest]}.{end}"
    return stored


def _q8_0(raw: Bytes) -> Bytes:
    """Signed bytes → bytes around 128."""
    return np.ascontiguousarray(raw[..., 2:]) ^ np.uint8(128)


def _q4_0(raw: Bytes, bits: int) -> Bytes:
    """Q4_0 holds the first half of a block in the lower four bits and the second in the upper."""
    quanta = np.concatenate([raw[..., 2:] & 15, raw[..., 2:] >> 4], -1)
    if bits == 4:
        return pack(quanta)
    return quanta + np.uint8(120)
