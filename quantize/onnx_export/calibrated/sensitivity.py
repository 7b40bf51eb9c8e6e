"""How much each product of a decoder suffers from 4 bits, and which ones should keep 8."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct

from spillover.quantize.knapsack import Way, choose
from spillover.quantize.onnx_export.calibrated.layer_runs import LayerRuns, State
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds, chunks_of
from spillover.quantize.onnx_export.decoder_graph import Progress
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.sizes import product_bytes
from spillover.quantize.onnx_export.source import WeightSource, matrices

_FEW_CHUNKS = 4
"""Chunks of the text that are read: the order of the products hardly changes with more."""


class Sensitivity(Struct, frozen=True, kw_only=True):
    """What 4 bits do to one product."""

    matrices: tuple[str, ...]
    """Those that the product multiplies with, such as "layers.0.mlp.down_proj"."""
    change: float
    """By how much the layer's output moves: the energy of the difference, as a share of the
    output's own."""
    more_bytes: int
    """What 8 bits take beyond 4."""


def sensitivities(
    source: WeightSource,
    options: ExportOptions,
    tokens: TokenIds,
    n_ctx: int,
    progress: Progress,
) -> list[Sensitivity]:
    """Of all products in the layers, measured one by one while the model reads *tokens*.

    A layer is run with all of its matrices at 8 bits, and once more for each of its products at 4;
    one layer is held at a time.
    """
    exact = LayerRuns(source, msgspec.structs.replace(options, weights="int8"), n_ctx)
    states = exact.entry(chunks_of(tokens, n_ctx, _FEW_CHUNKS))
    found: list[Sensitivity] = []
    n_layer = len(source.spec.layers)
    for index in range(n_layer):
        progress(index, n_layer)
        whole = exact.layer(index, is_exact=False)
        after = [whole.run(state)[0] for state in states]
        for product in _products(source, index):
            others = [name for name in _names(source, index) if name not in product]
            made = msgspec.structs.replace(options, weights="int4", eight_bits=tuple(others))
            rounded = LayerRuns(source, made, n_ctx).layer(index, is_exact=False)
            change = change_of(after, [rounded.run(state)[0] for state in states])
            more = _more_bytes(source, options, product)
            found.append(Sensitivity(matrices=product, change=change, more_bytes=more))
        states = after
    progress(n_layer, n_layer)
    return found


def kept(sensitivities: Sequence[Sensitivity], most_bytes: int) -> tuple[str, ...]:
    """The matrices to keep at 8 bits when all of them together may take *most_bytes* more: those
    whose changes sum up to most. What products lose adds up, nearly."""
    things = [
        (Way(n_bytes=0, loss=one.change), Way(n_bytes=one.more_bytes, loss=0.0))
        for one in sensitivities
    ]
    chosen = choose(things, most_bytes) or [0] * len(things)
    pairs = zip(sensitivities, chosen, strict=True)
    return tuple(sorted(name for one, place in pairs if place for name in one.matrices))


def _names(source: WeightSource, layer: int) -> list[str]:
    return [name.removesuffix(".weight") for name in matrices(source.spec, layer)]


def _products(source: WeightSource, layer: int) -> list[tuple[str, ...]]:
    """Queries, keys and values are one product, and get one number of bits."""
    names = _names(source, layer)
    together = tuple(name for name in names if name.endswith(("q_proj", "k_proj", "v_proj")))
    return [together, *((name,) for name in names if name not in together)]


def change_of(wanted: Sequence[State], found: Sequence[State]) -> float:
    """The energy of the difference of a layer's outputs, as a share of that of *wanted*."""
    pairs = list(zip(wanted, found, strict=True))
    moved = sum(float(np.square(b.residual - a.residual).sum()) for a, b in pairs)
    return moved / sum(float(np.square(a.residual).sum()) for a, _ in pairs)


def _more_bytes(source: WeightSource, options: ExportOptions, product: Sequence[str]) -> int:
    names = [f"{name}.weight" for name in product]
    few, many = (product_bytes(source, options, names, bits=bits) for bits in (4, 8))
    return many - few
