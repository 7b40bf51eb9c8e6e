"""How large a graph's weights will be."""

from __future__ import annotations

import math

from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource


def n_params(source: WeightSource) -> int:
    """The values of all tensors."""
    return sum(math.prod(source.shape(name)) for name in source.names())


def rotary_bytes(source: WeightSource, options: ExportOptions, n_ctx: int) -> int:
    """The tables of the rotary positions."""
    size = 2 if options.is_half else 4
    return sum(2 * len(one.frequencies) * n_ctx * size for one in source.spec.rotaries)


def weights_bytes(source: WeightSource, options: ExportOptions) -> int:
    """The weights as they will be stored; *options* name their format."""
    spec = source.spec
    total = 0
    for name in source.names():
        if name == HEAD and spec.is_tied:
            continue
        shape = source.shape(name)
        bits = _bits(source, name, options)
        if len(shape) == 1 or bits is None:
            total += math.prod(shape) * (2 if options.is_half else 4)
        else:
            total += matrix_bytes(shape, options, bits=bits, is_whole=name in (EMBEDDING, HEAD))
    return total


def _bits(source: WeightSource, name: str, options: ExportOptions) -> int | None:
    if options.weights == "faithful":
        return source.exact_bits(name) or 8
    if options.weights not in ("int4", "int8"):
        return None
    if name in (EMBEDDING, HEAD):
        return options.head_bits
    names = _together(source, name)
    return 8 if options.weights == "int8" or any(map(options.keeps_8, names)) else 4


def _together(source: WeightSource, name: str) -> list[str]:
    """The matrices of the product that *name* belongs to: it has one number of bits."""
    stem, attention, part = name.partition("self_attn.")
    is_joined = part in ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    if source.spec.family.has_head_norms or not is_joined:
        return [name]
    return [f"{stem}{attention}{one}_proj.weight" for one in "qkv"]


def matrix_bytes(
    shape: tuple[int, ...], options: ExportOptions, *, bits: int, is_whole: bool = False
) -> int:
    """A matrix (outputs, inputs) in blocks. *is_whole*: the embedding or the head, whose blocks are
    symmetric."""
    n_rows, n_values = shape
    n_blocks = -(-n_values // options.block)
    has_points = bits == 4 and not options.is_symmetric and not is_whole
    scale_bytes = 2 if options.is_half else 4
    row = n_blocks * (options.block * bits // 8 + scale_bytes) + has_points * -(-n_blocks // 2)
    return n_rows * row
