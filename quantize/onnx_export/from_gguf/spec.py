"""Turns the metadata of a GGUF file into a ModelSpec."""

from __future__ import annotations

from typing import Any

import numpy as np

from spillover.models.gguf_header import GgufHeader
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.rope import scaled_frequencies
from spillover.quantize.onnx_export.spec import LayerKind, ModelSpec

FREQUENCY_FACTORS = "rope_freqs.weight"
"""A tensor of divisors for the rotary frequencies (as Llama 3.1 is stored)."""
_ARCHITECTURES = ("llama", "qwen2", "qwen3")


def read_spec(header: GgufHeader, *, frequency_factors: Floats | None, is_tied: bool) -> ModelSpec:
    """The spec of a file with these facts. Raises ExportError."""
    name = header.architecture
    if name not in _ARCHITECTURES:
        raise ExportError(
            f"the architecture {name!r} is not supported: {', '.join(_ARCHITECTURES)} are "
            "(Mistral and SmolLM are stored as llama)"
        )
    numbers = _Numbers(header)
    n_head = numbers.whole("attention.head_count")
    n_hidden = numbers.whole("embedding_length")
    n_per_head = numbers.whole("attention.key_length", n_hidden // n_head)
    if numbers.whole("rope.dimension_count", n_per_head) != n_per_head:
        raise ExportError("rotary positions on only a part of each head are not supported")
    frequencies, magnitude = _rotary(numbers, n_per_head)
    if frequency_factors is not None:
        if frequency_factors.size != frequencies.size:
            raise ExportError(f"{FREQUENCY_FACTORS} has {frequency_factors.size} values")
        frequencies = frequencies / frequency_factors.reshape(-1)
    return ModelSpec(
        architecture=name,
        n_vocab=_n_vocab(header, numbers),
        n_hidden=n_hidden,
        n_inner=numbers.whole("feed_forward_length"),
        n_head=n_head,
        n_head_kv=numbers.whole("attention.head_count_kv", n_head),
        n_per_head=n_per_head,
        norm_epsilon=numbers.real("attention.layer_norm_rms_epsilon"),
        n_ctx=numbers.whole("context_length"),
        frequencies=tuple(frequencies.tolist()),
        magnitude=magnitude,
        layers=(LayerKind(),) * numbers.whole("block_count"),
        is_tied=is_tied,
    )


def _n_vocab(header: GgufHeader, numbers: _Numbers) -> int:
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[-1]
    return numbers.whole("vocab_size")


def _rotary(numbers: _Numbers, n_per_head: int) -> tuple[np.typing.NDArray[np.float64], float]:
    theta = numbers.real("rope.freq_base", 10_000.0)
    n_ctx = numbers.whole("context_length")
    kind = numbers.header.metadata.get(f"{numbers.header.architecture}.rope.scaling.type", "none")
    scaling: dict[str, Any] = {"rope_type": kind}
    if kind != "none":
        scaling["factor"] = numbers.real("rope.scaling.factor")
        original = numbers.whole("rope.scaling.original_context_length", n_ctx)
        scaling["original_max_position_embeddings"] = original
    return scaled_frequencies(theta, n_per_head, scaling, n_ctx)


class _Numbers:
    """The numbers that a file holds under the name of its architecture."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if not isinstance(value, int) or not 0 < value <= 1 << 24:
            raise ExportError(f"the GGUF file gives {key} as {value!r}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if not isinstance(value, int | float) or not value > 0:
            raise ExportError(f"the GGUF file gives {key} as {value!r}")
        return float(value)

    def _value(self, key: str, default: float | None) -> object:
        value = self.header.metadata.get(f"{self.header.architecture}.{key}", default)
        if isinstance(value, list) and len(set(value)) == 1:
            return value[0]
        return value
