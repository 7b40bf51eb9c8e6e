"""How much each product of a decoder suffers from 4 bits, and which ones should keep 8."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import msgspec
import numpy as np
from msgspec import Struct

from spillover.quantize.divergence import divergence
from spillover.quantize.knapsack import Way, choose
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.calibrated.layer_runs import (
    LayerRuns,
    Stage,
    State,
    few_chunks,
    held_bytes,
    through,
)
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds, affordable_tokens
from spillover.quantize.onnx_export.graph.decoder import STAGES, Progress
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.sizes import product_bytes
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource

_POSITION_STEP = 3
"""Every third position is scored: neighbours are much alike."""
_HEAD_ROWS = 8_192
"""Rows of the head that are held at a time."""
_FEWEST_SCORED = 64
"""Positions of the first chunk, however little memory there is."""


class Sensitivity(Struct, frozen=True, kw_only=True):
    """What 4 bits do to one product."""

    matrices: tuple[str, ...]
    """Those that the product multiplies with, such as "layers.0.mlp.down_proj"."""
    loss: float
    """Mean KL divergence of the predictions, in nats: the product's share in that of its layer."""
    more_bytes: int
    """What 8 bits take beyond 4."""


def sensitivities(
    source: WeightSource,
    options: ExportOptions,
    tokens: TokenIds,
    n_ctx: int,
    progress: Progress,
) -> list[Sensitivity]:
    """Of all products in the layers, measured while the model reads *tokens*.

    Each layer is run with all of its matrices at 8 bits, and from each of its products on once more
    with that one at 4: how far the layer's output moves is the product's share in what the layer
    loses. That is seen at the end of the text's first chunk, which passes the model once for each
    layer, with all of its matrices at 4 bits. One layer is held at a time; less is read of the text
    where memory is short.
    """
    whole = LayerRuns(source, msgspec.structs.replace(options, weights="int8"), n_ctx)
    few = LayerRuns(source, msgspec.structs.replace(options, weights="int4"), n_ctx)
    states = whole.entry(few_chunks(source.spec, tokens, n_ctx))
    n_layer = len(source.spec.layers)
    n_scored = max(affordable_tokens(n_layer * held_bytes(source.spec)), _FEWEST_SCORED)
    trails: list[State] = []
    shares: list[dict[tuple[str, ...], float]] = []
    for layer in range(n_layer):
        progress(layer, n_layer)
        stages = [whole.stage(layer, index, is_exact=False) for index in range(len(STAGES))]
        trails = [through(stages, trail) for trail in trails]
        begun = [states[0].beginning(n_scored)]
        few.advance(layer, begun, is_exact=False)
        trails += begun
        changes, states = _changes(source, options, layer, stages, states, n_ctx)
        total = sum(changes.values()) or 1.0
        shares.append({product: change / total for product, change in changes.items()})
    progress(n_layer, n_layer)
    losses = _divergences(source, states[0].beginning(n_scored), trails)
    return [
        Sensitivity(
            matrices=product,
            loss=loss * share,
            more_bytes=more_bytes(source, options, product),
        )
        for loss, products in zip(losses, shares, strict=True)
        for product, share in products.items()
    ]


def _changes(
    source: WeightSource,
    options: ExportOptions,
    layer: int,
    stages: Sequence[Stage],
    states: list[State],
    n_ctx: int,
) -> tuple[dict[tuple[str, ...], float], list[State]]:
    """By how much 4 bits in each product move the output of *stages*, and that output."""
    before = [states]
    for stage in stages:
        before.append([stage.run(state) for state in before[-1]])
    changes = {}
    for index, product in _products(layer):
        rounded = _rounded(source, options, product, n_ctx).stage(layer, index, is_exact=False)
        following = [rounded, *stages[index + 1 :]]
        changes[product] = _change(before[-1], [through(following, one) for one in before[index]])
    return changes, before[-1]


def _change(wanted: Sequence[State], found: Sequence[State]) -> float:
    """The energy of the difference of a layer's outputs, over all tokens.

    Tokens with huge values, which some models have, count most. So they should: the predictions
    hang on them. With every token's difference as a share of its own energy, SmolLM2-135M with 6.08
    bits a weight, not calibrated, lost 13 % more.
    """
    pairs = zip(wanted, found, strict=True)
    return sum(float(np.square(b.residual - a.residual).sum()) for a, b in pairs)


def _divergences(source: WeightSource, exact: State, found: Sequence[State]) -> list[float]:
    """The mean KL divergences of what *found* predict from what *exact* predicts, in nats."""
    wanted = logits_of(source, exact.x[::_POSITION_STEP])
    return [
        float(divergence(wanted, logits_of(source, one.x[::_POSITION_STEP])).mean())
        for one in found
    ]


def logits_of(source: WeightSource, x: Floats) -> Floats:
    """The logits (positions, vocabulary) of what the last layer makes of them, *x*."""
    spec = source.spec
    name = EMBEDDING if spec.is_tied else HEAD
    logits = np.empty((len(x), spec.n_vocab), np.float32)
    for start in range(0, spec.n_vocab, _HEAD_ROWS):
        rows = source.values(name, start, start + _HEAD_ROWS)
        logits[:, start : start + len(rows)] = x @ rows.T
    logits *= np.float32(spec.logit_scale)
    if spec.logit_cap is not None:
        logits /= np.float32(spec.logit_cap)
        np.tanh(logits, out=logits)
        logits *= np.float32(spec.logit_cap)
    return logits


def kept(sensitivities: Sequence[Sensitivity], most_bytes: int) -> tuple[str, ...]:
    """The matrices to keep at 8 bits when all of them together may take *most_bytes* more: those
    whose losses sum up to most. What products lose adds up, nearly."""
    things = [
        (Way(n_bytes=0, loss=one.loss), Way(n_bytes=one.more_bytes, loss=0.0))
        for one in sensitivities
    ]
    chosen = choose(things, most_bytes) or [0] * len(things)
    pairs = zip(sensitivities, chosen, strict=True)
    return tuple(sorted(name for one, place in pairs if place for name in one.matrices))


def _rounded(
    source: WeightSource, options: ExportOptions, product: tuple[str, ...], n_ctx: int
) -> LayerRuns:
    """Runs of layers in which nothing but *product* has 4 bits."""
    names = source.names() - {f"{name}.weight" for name in product}
    others = tuple(name.removesuffix(".weight") for name in names)
    made = msgspec.structs.replace(options, weights="int4", eight_bits=others)
    return LayerRuns(source, made, n_ctx)


def _products(layer: int) -> Generator[tuple[int, tuple[str, ...]]]:
    """Each with the index of its stage. Queries, keys and values get one number of bits."""
    for index, names in enumerate(STAGES):
        full = tuple(f"layers.{layer}.{name}" for name in names)
        yield from [(index, full)] if index == 0 else [(index, (name,)) for name in full]


def more_bytes(source: WeightSource, options: ExportOptions, product: Sequence[str]) -> int:
    """What 8 bits take beyond 4, for the matrices of one product."""
    names = [f"{name}.weight" for name in product]
    few, many = (product_bytes(source, options, names, bits=bits) for bits in (4, 8))
    return many - few
