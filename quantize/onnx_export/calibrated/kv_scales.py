"""The scales of a KV cache in int8, from what a calibration text leaves there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spillover.quantize.onnx_export.attention_layers import KvScales
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.calibrated.layer_runs import LayerRuns
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds, chunks_of
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource

_MARGIN = 1.1
"""Other texts leave larger values than the calibration text; what is larger still is clipped."""


def kv_scales(
    source: WeightSource, options: ExportOptions, tokens: TokenIds, n_ctx: int
) -> list[KvScales]:
    """Of each layer, one for each channel; the text passes the exact layers once."""
    runs = LayerRuns(source, options, n_ctx)
    states = runs.entry(chunks_of(tokens, n_ctx))
    found = []
    for index in range(len(source.spec.layers)):
        attention = runs.stage(index, 0, is_exact=True)
        pairs = [attention.keys_and_values(state) for state in states]
        keys, values = zip(*pairs, strict=True)
        found.append(KvScales(keys=_scale(keys), values=_scale(values)))
        states = runs.layer(index, states, is_exact=True)
    return found


def _scale(found: Sequence[Floats]) -> Floats:
    largest = np.max([np.abs(one).max(1) for one in found], 0)
    scale: Floats = np.maximum(largest * np.float32(_MARGIN / 127), np.float32(1e-8))
    return scale
