"""How each layer of a GGUF file attends."""

from __future__ import annotations

from spillover.quantize.onnx_export.from_gguf.numbers import GgufNumbers
from spillover.quantize.onnx_export.spec import LayerKind


def layers(numbers: GgufNumbers) -> tuple[LayerKind, ...]:
    """As llama.cpp reads them. Raises ExportError."""
    return (LayerKind(),) * numbers.whole("block_count")
