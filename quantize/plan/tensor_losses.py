"""What each matrix of a GGUF file would lose with each type that may hold it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
from msgspec import Struct

from spillover.quantize.gguf.rounding import rounded
from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.calibrated.layer_runs import (
    LayerRuns,
    State,
    few_chunks,
)
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds
from spillover.quantize.onnx_export.graph.decoder import STAGES, stage_of
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource
from spillover.quantize.onnx_export.spec import ModelSpec
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.runtime.machine.device import default_threads

_LADDERS = {
    256: ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
    32: ("IQ4_NL", "Q5_0", "Q8_0"),
    1: ("F16",),
}
"""By the number of weights that must divide a row: the types to choose from, fewest bits first."""
_MEASURED = ("Q4_K", "IQ4_NL")
"""The types whose effect on a layer is measured."""
_N_SAMPLED = 64
"""Rows of a matrix whose errors are compared between types."""
_FIRST_PARTS = {
    "self_attn.qkv_proj": "self_attn.q_proj",
    "mlp.gate_up_proj": "mlp.gate_proj",
}
_TINY = 1e-30
_EXACT = ExportOptions(weights="fp32")


class TensorLoss(Struct, frozen=True, kw_only=True):
    """One matrix of a layer."""

    name: str
    """As the source calls it."""
    shape: tuple[int, int]
    losses: dict[str, float]
    """By type: how far the layer's output moves, as a share of its energy."""


def types_for(n_values: int) -> tuple[str, ...]:
    """The types that can hold rows of so many weights, fewest bits first."""
    return next(kinds for block, kinds in _LADDERS.items() if n_values % block == 0)


def tensor_losses(
    stored: WeightSource, tokens: TokenIds, n_ctx: int, progress: Callable[[int, int], None]
) -> list[TensorLoss]:
    """Of all matrices in the layers, measured one by one while the model reads *tokens*.

    A layer is run with its own weights, and once more for each of its matrices with that one
    rounded to about 4 bits. What other types would lose follows from their errors in some rows,
    each weighted by the mean square of what it multiplies: a small error moves the output in
    proportion to its energy. One layer is held at a time.
    """
    spec = stored.spec
    exact = LayerRuns(SplitSource(stored), _EXACT, n_ctx)
    states = exact.entry(few_chunks(spec, tokens, n_ctx))
    found: list[TensorLoss] = []
    for index in range(len(spec.layers)):
        progress(index, len(spec.layers))
        layer = _RunLayer(stored, index, states, n_ctx)
        found += [layer.loss(name) for name in _matrices(stored, index)]
        states = layer.after
    progress(len(spec.layers), len(spec.layers))
    return found


class _RunLayer:
    """A layer, what it made of the text, and what its matrices multiplied."""

    def __init__(
        self, stored: WeightSource, index: int, states: Sequence[State], n_ctx: int
    ) -> None:
        self._stored, self._index, self._states, self._n_ctx = stored, index, states, n_ctx
        self._before = [list(states)]
        """The text before each stage, and after the last one."""
        runs = LayerRuns(SplitSource(stored), _EXACT, n_ctx)
        for stage in range(len(STAGES)):
            self._before.append(runs.passed(index, stage, self._before[-1], is_exact=True))
        self.after = self._before[-1]
        self._means = [_mean(before) for before in self._before]

    def loss(self, name: str) -> TensorLoss:
        """What the matrix loses with each type."""
        n_rows, n_values = self._stored.shape(name)
        kinds, matrix = types_for(n_values), self._stored.values(name)
        measured = next((kind for kind in kinds if kind in _MEASURED), None)
        losses = dict.fromkeys(kinds, 0.0)
        if measured is not None:
            importance = self._means[_stage_of(name)]
            made = rounded(matrix, measured, importance, n_threads=default_threads())
            share = self._change(name, made)
            rows = matrix[:: -(-n_rows // _N_SAMPLED)]
            errors = {kind: _error(rows, kind, importance) for kind in kinds}
            losses = {kind: share * error / errors[measured] for kind, error in errors.items()}
        return TensorLoss(name=name, shape=(n_rows, n_values), losses=losses)

    def _change(self, name: str, matrix: Floats) -> float:
        source = SplitSource(_Replaced(self._stored, name, matrix))
        runs = LayerRuns(source, _EXACT, self._n_ctx)
        states = self._before[_stage_of(name)]
        for stage in range(_stage_of(name), len(STAGES)):
            states = runs.passed(self._index, stage, states, is_exact=True)
        return float(np.mean([_moved(a.x, b.x) for a, b in zip(self.after, states, strict=True)]))


def _moved(wanted: Floats, found: Floats) -> float:
    """The mean share of a token's energy that the difference has. Both are normalized for the next
    layer: tokens with huge values, which some models have, count as little as they do there."""
    energy = np.square(wanted).sum(-1) + _TINY
    return float((np.square(found - wanted).sum(-1) / energy).mean())


def _error(rows: Floats, kind: str, importance: Floats) -> float:
    """The energy that rounding *rows* adds to what they compute, up to a factor; never 0."""
    found = rounded(rows, kind, importance, n_threads=1)
    return float((np.square(rows - found) * importance).sum()) + _TINY


def _matrices(stored: WeightSource, index: int) -> Generator[str]:
    for name in sorted(stored.names()):
        if name.startswith(f"layers.{index}.") and len(stored.shape(name)) == 2:
            yield name


def _stage_of(name: str) -> int:
    """The stage that multiplies with a matrix; fused ones stand where their parts do."""
    part = name.split(".", 2)[2].removesuffix(".weight")
    return stage_of(_FIRST_PARTS.get(part, part))


def _mean(states: Sequence[State]) -> Floats:
    """The mean square of each input."""
    n_tokens = sum(len(state.x) for state in states)
    total: Floats = sum(np.square(state.x).sum(0) for state in states) / np.float32(n_tokens)
    return total


class _Replaced:
    """*source* with other values of one tensor."""

    def __init__(self, source: WeightSource, name: str, values: Floats) -> None:
        self._source, self._name, self._values = source, name, values

    @property
    def spec(self) -> ModelSpec:
        return self._source.spec

    def names(self) -> frozenset[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        if name == self._name:
            return self._values[start:stop]
        return self._source.values(name, start, stop)

    def exact_bits(self, name: str) -> int | None:
        return None

    def blocks(self, name: str, bits: int) -> Blocks | None:
        return None
