"""What a source's own weights predict, computed layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.calibrated.layer_runs import LayerRuns
from spillover.quantize.onnx_export.calibrated.sensitivity import logits_of
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource
from spillover.quantize.onnx_export.spec import ModelSpec
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.runtime.backend import Tokens

_MOST_EXACT_BYTES = 64 << 20
"""Of the matrices that are held together as fp32; larger ones are run in 8 bits, which moves the
predictions by less than 0.01 nats."""


def exact_logits(
    stored: WeightSource, tokens: Tokens, positions: Sequence[int], n_ctx: int
) -> Floats:
    """The logits (positions, vocabulary) at some of the *tokens*' positions, of a model whose
    context has *n_ctx* tokens. One layer is held at a time."""
    source = SplitSource(stored)
    spec = source.spec
    is_exact = _largest_stage_bytes(spec) <= _MOST_EXACT_BYTES
    runs = LayerRuns(source, ExportOptions(weights="int8"), _few(spec, len(tokens), n_ctx))
    states = runs.entry([tokens.astype(np.int64)])
    for layer in range(len(spec.layers)):
        runs.advance(layer, states, is_exact=is_exact)
    return logits_of(source, states[0].x[list(positions)])


def _largest_stage_bytes(spec: ModelSpec) -> int:
    n_attention = (spec.n_head + 2 * spec.n_head_kv) * spec.n_per_head
    return 4 * spec.n_hidden * max(2 * spec.n_inner, n_attention)


def _few(spec: ModelSpec, n_tokens: int, n_ctx: int) -> int:
    """A short context with the same rotary positions as one of *n_ctx* tokens."""
    long = [one.n_short + 1 for one in spec.rotaries if one.long_frequencies is not None]
    return min(n_ctx, max(n_tokens, *long, 1))
