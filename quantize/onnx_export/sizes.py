"""How large a graph's weights will be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.product_format import bits_for, block_for, keeps
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource

_SCALE_BYTES = 2
"""In the file."""


def n_params(source: WeightSource) -> int:
    """The values of all tensors."""
    return sum(math.prod(source.shape(name)) for name in source.names())


def rotary_bytes(source: WeightSource, options: ExportOptions, n_ctx: int) -> int:
    """The tables of the rotary positions."""
    size = 2 if options.is_half else 4
    return sum(2 * len(one.frequencies) * n_ctx * size for one in source.spec.rotaries)


def weights_bytes(source: WeightSource, options: ExportOptions, *, is_loaded: bool = False) -> int:
    """The weights as they will be stored, or as ONNX Runtime packs them when it loads them;
    *options* name their format."""
    scale_bytes = 4 if is_loaded and not options.is_half else _SCALE_BYTES
    total = 0
    for name in source.names():
        names = _together(source, name)
        if name != names[0] or (name == HEAD and source.spec.is_tied):
            continue
        bits = _bits(name, options)
        if len(source.shape(name)) == 1 or bits is None:
            n_values = sum(math.prod(source.shape(one)) for one in names)
            total += n_values * (2 if options.is_half else 4)
        else:
            bits = bits_for(source, options, names, bits)
            total += product_bytes(source, options, names, bits=bits, scale_bytes=scale_bytes)
    return total


def _bits(name: str, options: ExportOptions) -> int | None:
    """Of most matrices of this kind; None: they are not in blocks."""
    if options.weights in ("fp16", "fp32"):
        return None
    if name in (EMBEDDING, HEAD):
        return options.head_bits
    return 8 if options.weights == "int8" else 4


def _together(source: WeightSource, name: str) -> list[str]:
    """The matrices of the product that *name* belongs to."""
    stem, attention, part = name.partition("self_attn.")
    is_joined = part in ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    if source.spec.family.has_head_norms or not is_joined:
        return [name]
    return [f"{stem}{attention}{one}_proj.weight" for one in "qkv"]


def product_bytes(
    source: WeightSource,
    options: ExportOptions,
    names: Sequence[str],
    *,
    bits: int,
    scale_bytes: int = _SCALE_BYTES,
) -> int:
    """The matrices *names* of one product (outputs, inputs) in blocks of *bits*."""
    block = block_for(source, options, names, bits)
    is_plain = options.is_symmetric or set(names) <= {EMBEDDING, HEAD}
    has_points = bits == 4 and not is_plain and not all(keeps(source, one, 4) for one in names)
    n_values = source.shape(names[0])[1]
    n_blocks = -(-n_values // block)
    row = n_blocks * (block * bits // 8 + scale_bytes) + has_points * -(-n_blocks // 2)
    return sum(source.shape(name)[0] for name in names) * row
