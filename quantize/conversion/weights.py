"""Whether the weights of a conversion, as they are on disk, are those of its file.

A wrong value in one row of a matrix hardly changes the logits of a text: they do not show it.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from spillover.quantize.onnx_export.blocks import BLOCK, Blocks, Floats
from spillover.quantize.onnx_export.export import MODEL_FILE
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource

_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.q": ("self_attn.q_proj",),
    "self_attn.k": ("self_attn.k_proj",),
    "self_attn.v": ("self_attn.v_proj",),
    "attn_out": ("self_attn.o_proj",),
    "gate": ("mlp.gate_proj",),
    "up": ("mlp.up_proj",),
    "mlp_out": ("mlp.down_proj",),
}
"""The matrices of the file, one below the other, in each product of a layer."""
_CHUNK = 1 << 21
"""Values compared at a time."""
_HALF = 1e-3
"""Scales are stored in fp16: part of a value that this may change."""
_ROUNDING = 0.51 / 127
"""Part of the largest value of a block that rounding to 8 bits may change."""


def weights_difference(source: WeightSource, folder: Path) -> str:
    """Which of the weights of the conversion in *folder* is not that of *source*; empty: none.
    Raises OSError."""
    graph = onnx.load(folder / MODEL_FILE, load_external_data=False).graph
    stored = {proto.name: proto for proto in graph.initializer}
    factors = dict(_factors(graph, folder, stored))
    for name in stored:
        product, _, kind = name.rpartition(".")
        if kind == "blocks":
            blocks = _blocks(product, source, folder, stored, factors.get(product, 1.0))
            difference = _matrix_difference(blocks, _names(product), source)
        elif kind == "bias" or name in source.names():
            wanted = _biases(product, source) if kind == "bias" else source.values(name)
            difference = "" if np.array_equal(_array(stored[name], folder), wanted) else name
        else:
            continue
        if difference:
            return f"its {difference} is not that of the file"
    return ""


def _names(product: str) -> list[str]:
    """The matrices that *product* multiplies with."""
    if product in ("embedding", "head"):
        return [EMBEDDING if product == "embedding" else HEAD]
    layers, number, part = product.split(".", 2)
    return [f"{layers}.{number}.{name}.weight" for name in _PARTS[part]]


def _blocks(
    product: str,
    source: WeightSource,
    folder: Path,
    stored: dict[str, TensorProto],
    factor: float,
) -> Blocks:
    packed = _array(stored[f"{product}.blocks"], folder)
    scales = _array(stored[f"{product}.scales.half"], folder).astype(np.float32)
    return Blocks(
        bits=packed.shape[-1] * 8 // BLOCK,
        n_values=source.shape(_names(product)[0])[1],
        packed=packed,
        scales=scales * np.float32(factor),
    )


def _biases(product: str, source: WeightSource) -> Floats:
    """Those of a product; zeros for a matrix without."""
    biases = [name.removesuffix("weight") + "bias" for name in _names(product)]
    rows = [source.shape(name)[0] for name in _names(product)]
    return np.concatenate(
        [
            source.values(bias) if bias in source.names() else np.zeros(n_rows, np.float32)
            for bias, n_rows in zip(biases, rows, strict=True)
        ]
    )


def _factors(
    graph: onnx.GraphProto, folder: Path, stored: dict[str, TensorProto]
) -> Generator[tuple[str, float]]:
    """What the scales of a product are multiplied with, where they are."""
    for node in graph.node:
        product, _, kind = node.output[0].rpartition(".")
        if kind == "scales" and node.op_type == "Mul":
            yield product, float(_array(stored[node.input[1]], folder))


def _matrix_difference(blocks: Blocks, names: list[str], source: WeightSource) -> str:
    """The name of a matrix with another value than *blocks* have."""
    start, step = 0, max(_CHUNK // blocks.n_values, 1)
    for name in names:
        n_rows = source.shape(name)[0]
        rounding = 0.0 if source.exact_bits(name) is not None else _ROUNDING
        for first in range(0, n_rows, step):
            last = min(first + step, n_rows)
            wanted = source.values(name, first, last)
            found = blocks.of_rows(slice(start + first, start + last)).values()
            if not _are_near(found, wanted, _HALF + rounding):
                return name
        start += n_rows
    return "" if start == len(blocks.packed) else names[-1]


def _are_near(found: Floats, wanted: Floats, share: float) -> bool:
    """Whether no value differs by more than this share of the largest one of its block."""
    if found.shape != wanted.shape:
        return False
    padding = ((0, 0), (0, -wanted.shape[1] % BLOCK))
    error, size = (
        np.pad(np.abs(values), padding).reshape(len(values), -1, BLOCK).max(-1)
        for values in (found - wanted, wanted)
    )
    return bool((error <= share * size).all())  # not for NaN


def _array(proto: TensorProto, folder: Path) -> npt.NDArray[Any]:
    return numpy_helper.to_array(proto, str(folder))
