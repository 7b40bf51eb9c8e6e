"""Turns the metadata of a GGUF file into a ModelSpec."""

from __future__ import annotations

from collections.abc import Mapping

from spillover.models.gguf_header import GgufHeader
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.families import FAMILIES, of_gguf
from spillover.quantize.onnx_export.from_gguf.layers import layers
from spillover.quantize.onnx_export.from_gguf.numbers import GgufNumbers
from spillover.quantize.onnx_export.from_gguf.rotary import rotaries
from spillover.quantize.onnx_export.spec import ModelSpec


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
    return ModelSpec(
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


def _n_vocab(header: GgufHeader, numbers: GgufNumbers) -> int:
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[-1]
    return numbers.whole("vocab_size")
