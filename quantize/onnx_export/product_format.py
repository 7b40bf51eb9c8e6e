"""Bits and blocks of the matrices that one product multiplies with: they have one format."""

from __future__ import annotations

from collections.abc import Sequence

from spillover.quantize.onnx_export.blocks import BLOCK
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource


def bits_for(source: WeightSource, options: ExportOptions, names: Sequence[str], bits: int) -> int:
    """*bits*, or what the options say of these matrices: 8, or what is faithful."""
    if options.weights != "faithful":
        return 8 if any(map(options.keeps_8, names)) else bits
    return max(source.exact_bits(name) or 8 for name in names)


def block_for(source: WeightSource, options: ExportOptions, names: Sequence[str], bits: int) -> int:
    """The options' blocks, or those that a matrix is stored in and keeps."""
    is_kept = any(keeps(source, name, bits) for name in names)
    return BLOCK if is_kept else options.block


def keeps(source: WeightSource, name: str, bits: int) -> bool:
    """Whether blocks of so many bits hold the matrix as it is stored, without zero points."""
    exact = source.exact_bits(name)
    return exact is not None and exact <= bits
