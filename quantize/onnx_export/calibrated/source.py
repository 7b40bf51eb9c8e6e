"""A source whose 4-bit matrices are rounded for what they multiply in a calibration text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spillover.quantize.onnx_export.blocks import Blocks, Floats, Rows, quantize
from spillover.quantize.onnx_export.calibrated.compensation import Compensator
from spillover.quantize.onnx_export.calibrated.layer_runs import (
    LayerRuns,
    Stage,
    State,
    through,
)
from spillover.quantize.onnx_export.calibrated.second_moments import SecondMoments
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.graph.decoder import STAGES, stage_of
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.product_format import block_for
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource
from spillover.quantize.onnx_export.spec import ModelSpec

N_RESIDUALS = 2
"""Residual sums of each token that are held at a time: with and without rounding."""


class CalibratedSource:
    """*source*, read in the order of the graph: from its first layer to the head.

    A layer's matrices are rounded for the inputs that it gets from the layers before, which are
    rounded already, and make up for what those inputs lack. One layer is held at a time, and the
    text as it has become there, with and without rounding: as the residual sums before a pair of
    stages, of which all else follows.
    """

    def __init__(
        self,
        source: WeightSource,
        options: ExportOptions,
        chunks: Sequence[TokenIds],
        *,
        n_ctx: int,
    ) -> None:
        self._source = source
        self._options = options
        self._runs = LayerRuns(self, options, n_ctx)
        self._chunks = chunks
        self._found = [self._runs.embedded(tokens) for tokens in self._chunks]
        """Residual sums before the pair of the current stage, as it was rounded so far."""
        self._opened: Callable[[Floats], State]
        """Makes of one the state before that pair."""
        self._wanted = [*self._found]
        """The same without rounding; behind the pair once its second stage has come."""
        self._place = -1
        """The number of the stage whose matrices are rounded, counted through all layers."""
        self._passed: list[Stage] = []
        """The stage before the current one in its pair, as it was rounded."""
        self._moments: SecondMoments
        self._compensators: dict[int, Compensator] = {}
        self._made: dict[tuple[str, int], Blocks] = {}

    @property
    def spec(self) -> ModelSpec:
        return self._source.spec

    def names(self) -> frozenset[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        return self._source.values(name, start, stop)

    def exact_bits(self, name: str) -> int | None:
        return self._source.exact_bits(name)

    def blocks(self, name: str, bits: int) -> Blocks | None:
        stored = self._source.blocks(name, bits)
        if stored is not None or (name in (EMBEDDING, HEAD) and bits == 8):
            return stored
        if name == EMBEDDING:
            return self._tied_head() if self.spec.is_tied else self._own_embedding()
        while self._place < self._place_of(name):
            self._advance()
        if (name, bits) not in self._made:
            self._made[name, bits] = self._rounded(name, bits)
        return self._made[name, bits]

    def _place_of(self, name: str) -> int:
        if name == HEAD:
            return len(self.spec.layers) * len(STAGES)
        _, layer, matrix = name.removesuffix(".weight").split(".", 2)
        return int(layer) * len(STAGES) + stage_of(matrix)

    def _advance(self) -> None:
        """Let the text pass this stage, as it was rounded; see what the next one multiplies."""
        if self._place >= 0:
            self._passed.append(self._runs.stage(*self._stage(), is_exact=False))
        if len(self._passed) == 2:
            for i, found in enumerate(self._found):
                self._found[i] = through(self._passed, self._opened(found)).residual
            self._passed = []
        self._place += 1
        self._made.clear()
        self._compensators.clear()
        self._moments = SecondMoments(self._n_inputs())
        if self._passed:
            self._look_between()
        else:
            self._opened = self._runs.opened(*self._stage())
            is_head = self._place == self._place_of(HEAD)
            for found, wanted in zip(self._found, self._wanted, strict=True):
                # The first stage of a pair leaves the residual sum as it is.
                weights = _equal(wanted) if is_head else _weights(wanted)
                self._moments.add(self._opened(found).x, self._opened(wanted).x, weights)

    def _look_between(self) -> None:
        """See what the second stage of a pair multiplies; without rounding the text passes both."""
        layer, stage = self._stage()
        first, second = (self._runs.stage(layer, i, is_exact=True) for i in (stage - 1, stage))
        for i, (found, wanted) in enumerate(zip(self._found, self._wanted, strict=True)):
            between = first.run(self._opened(wanted))
            self._wanted[i] = second.run(between).residual
            inputs = through(self._passed, self._opened(found)).x
            self._moments.add(inputs, between.x, _weights(self._wanted[i]))

    def _stage(self) -> tuple[int, int]:
        """The layer, and the number of its stage."""
        return divmod(self._place, len(STAGES))

    def _n_inputs(self) -> int:
        """Of the matrices of this stage."""
        layer, stage = self._stage()
        if layer == len(self.spec.layers):
            return self.spec.n_hidden
        return self.shape(f"layers.{layer}.{STAGES[stage][0]}.weight")[1]

    def _tied_head(self) -> Blocks:
        """The embedding as it is rounded for its products as the head; the text begins anew with
        its rows."""
        states = self._runs.entry(self._chunks)
        for layer in range(len(self.spec.layers)):
            self._runs.advance(layer, states, is_exact=True)
        self._moments = SecondMoments(self.spec.n_hidden)
        for state in states:
            self._moments.add(state.x, state.x, _equal(state.x))
        made = self._rounded(EMBEDDING, 4)
        self._found = [self._runs.embedded(tokens, made) for tokens in self._chunks]
        return made

    def _own_embedding(self) -> Blocks:
        """The embedding, which multiplies nothing; the text begins anew with its rounded rows."""
        shape, block = self._matrix_shape(EMBEDDING), self._block_of(EMBEDDING, 4)
        made = quantize(self._rows(EMBEDDING), shape, bits=4, is_symmetric=True, block=block)
        self._found = [self._runs.embedded(tokens, made) for tokens in self._chunks]
        return made

    def _rows(self, name: str) -> Rows:
        def rows(start: int, stop: int) -> Floats:
            found = self._source.values(name, start, stop)
            if not np.isfinite(found).all():
                raise ExportError(
                    f"{name} has values that are not numbers: the weights are damaged"
                )
            return found

        return rows

    def _matrix_shape(self, name: str) -> tuple[int, int]:
        n_rows, n_values = self.shape(name)
        return n_rows, n_values

    def _rounded(self, name: str, bits: int) -> Blocks:
        block, shape = self._block_of(name, bits), self._matrix_shape(name)
        moments, exact = self._moments, self._rows(name)

        def rows(start: int, stop: int) -> Floats:
            return moments.corrected(exact(start, stop))

        if bits == 8:
            return quantize(rows, shape, bits=8, is_symmetric=True, block=block)
        is_symmetric = self._options.is_symmetric or name in (EMBEDDING, HEAD)
        if block not in self._compensators:
            self._compensators[block] = Compensator(moments, block)
        return self._compensators[block].quantize(rows, shape, is_symmetric=is_symmetric)

    def _block_of(self, name: str, bits: int) -> int:
        """The queries, keys and values, which may become one product, have blocks of one size."""
        stem, _, _ = name.rpartition("self_attn.")
        together = [f"{stem}self_attn.{part}_proj.weight" for part in "qkv"]
        names = together if name in together else [name]
        return block_for(self._source, self._options, names, bits)


def _equal(tokens: Floats) -> Floats:
    """All tokens count alike."""
    return np.ones(len(tokens), np.float32)


def _weights(after: Floats) -> Floats:
    """How much an error at each token counts, (tokens,): norms divide it by the residual sum
    *after* the stage."""
    energy = np.square(after).mean(-1)
    inverse = np.reciprocal(energy)
    weights: Floats = inverse / inverse.mean()
    return weights
