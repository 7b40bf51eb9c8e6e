"""Turns the metadata of a GGUF file into a ModelSpec."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from spillover.models.gguf_header import GgufHeader
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.families import FAMILIES, of_gguf
from spillover.quantize.onnx_export.from_gguf.layers import layers
from spillover.quantize.onnx_export.from_gguf.numbers import GgufNumbers
from spillover.quantize.onnx_export.from_gguf.rotary import rotaries
from spillover.quantize.onnx_export.spec import ModelSpec

_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
"""The only one with another scale has so many layers, by which llama.cpp knows it."""
_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
"""Where a file names none."""


def model_type(header: GgufHeader) -> str:
    """The type of the model in Hugging Face's words. Raises ExportError for one that is not
    known."""
    found = of_gguf(header.architecture)
    if found is None:
        known = dict.fromkeys(family.gguf for family in FAMILIES.values())
        raise ExportError(
            f"the architecture {header.architecture[:80]!r} is not supported: {', '.join(known)} "
            "are (Mistral and SmolLM are stored as llama)"
        )
    return found


def read_spec(
    header: GgufHeader, *, rotary_divisors: Mapping[str, Floats], is_tied: bool
) -> ModelSpec:
    """The spec of a file with these facts. Raises ExportError."""
    numbers = GgufNumbers(header)
    n_head = numbers.whole("attention.head_count")
    n_hidden = numbers.whole("embedding_length")
    n_per_head = numbers.whole("attention.key_length", n_hidden // n_head)
    spec = ModelSpec(
        architecture=model_type(header),
        n_vocab=_n_vocab(header, numbers),
        n_hidden=n_hidden,
        n_inner=numbers.whole("feed_forward_length"),
        n_head=n_head,
        n_head_kv=numbers.whole("attention.head_count_kv", n_head),
        n_per_head=n_per_head,
        norm_epsilon=numbers.real("attention.layer_norm_rms_epsilon"),
        n_ctx=numbers.whole("context_length"),
        rotaries=rotaries(numbers, n_per_head, rotary_divisors),
        layers=layers(numbers),
        is_tied=is_tied,
    )
    return _scaled(spec, numbers)


def _scaled(spec: ModelSpec, numbers: GgufNumbers) -> ModelSpec:
    """With the factors of the families that have any."""
    if numbers.architecture == "granite":
        return msgspec.structs.replace(
            spec,
            embedding_scale=_given(numbers, "embedding_scale") or 1.0,
            attention_scale=_given(numbers, "attention.scale"),
            residual_scale=_given(numbers, "residual_scale") or 1.0,
            logit_scale=1 / numbers.real("logit_scale"),
        )
    if numbers.architecture in _27B_LAYERS:
        return _scaled_as_gemma(spec, numbers)
    return spec


def _scaled_as_gemma(spec: ModelSpec, numbers: GgufNumbers) -> ModelSpec:
    n_scaled = spec.n_per_head
    if len(spec.layers) == _27B_LAYERS[numbers.architecture]:
        n_scaled = spec.n_hidden // spec.n_head
    is_second = numbers.architecture == "gemma2"
    caps = [
        numbers.real(key, usual) if is_second else _given(numbers, key)
        for key, usual in _GEMMA2_CAPS.items()
    ]
    return msgspec.structs.replace(
        spec,
        embedding_scale=math.sqrt(spec.n_hidden),
        attention_scale=1 / math.sqrt(n_scaled),
        attention_cap=caps[0] if is_second else None,
        logit_cap=caps[1],
    )


def _given(numbers: GgufNumbers, key: str) -> float | None:
    """None for 0 too, by which llama.cpp means none."""
    return numbers.real(key) if numbers.get(key) else None


def _n_vocab(header: GgufHeader, numbers: GgufNumbers) -> int:
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[-1]
    return numbers.whole("vocab_size")
