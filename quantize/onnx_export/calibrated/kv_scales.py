"""The scales of a KV cache in int8, from what a calibration text leaves there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.calibrated.layer_runs import LayerRuns
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds
from spillover.quantize.onnx_export.graph.attention_layers import KvScales
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource
from spillover.quantize.onnx_export.spec import ModelSpec

_MARGIN = 1.1
"""Other texts leave larger values than the calibration text; what is larger still is clipped."""


def kv_scales(
    source: WeightSource, options: ExportOptions, chunks: Sequence[TokenIds], n_ctx: int
) -> list[KvScales]:
    """Of each layer, one for each channel; the text passes the exact layers once.

    Keys are held as their position has turned them, and the text ends long before a slow pair of
    channels has gone round: at later positions either may hold all of what both hold here.
    """
    runs = LayerRuns(source, options, n_ctx)
    states = runs.entry(chunks)
    found = []
    for index in range(len(source.spec.layers)):
        attention = runs.stage(index, 0, is_exact=True)
        n_pairs = _n_turned_pairs(source.spec, index)
        most = []
        for state in states:
            keys, values = attention.keys_and_values(state)
            most.append((_most(_in_any_turn(keys, n_pairs)), _most(values)))
        of_keys, of_values = zip(*most, strict=True)
        found.append(KvScales(keys=_scale(of_keys), values=_scale(of_values)))
        runs.advance(index, states, is_exact=True)
    return found


def _n_turned_pairs(spec: ModelSpec, layer: int) -> int:
    rotary = spec.layers[layer].rotary
    return 0 if rotary is None else len(spec.rotaries[rotary].frequencies)


def _in_any_turn(keys: Floats, n_pairs: int) -> Floats:
    """The most that each channel holds at any position, (…, channels): channels i and i + n_pairs
    turn together, which leaves the root of the sum of their squares as it is."""
    first, second = keys[..., :n_pairs], keys[..., n_pairs : 2 * n_pairs]
    radius = np.hypot(first, second)
    most: Floats = np.concatenate([radius, radius, keys[..., 2 * n_pairs :]], -1)
    return most


def _most(found: Floats) -> Floats:
    """Over the tokens, (shared heads, channels)."""
    most: Floats = np.abs(found).max(1)
    return most


def _scale(most: Sequence[Floats]) -> Floats:
    scale: Floats = np.maximum(np.max(most, 0) * np.float32(_MARGIN / 127), np.float32(1e-8))
    return scale
