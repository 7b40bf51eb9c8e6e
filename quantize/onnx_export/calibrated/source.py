"""A source whose 4-bit matrices are rounded for what they multiply in a calibration text."""

from __future__ import annotations

import numpy as np

from spillover.quantize.onnx_export.blocks import BLOCK, Blocks, Floats
from spillover.quantize.onnx_export.calibrated.compensation import Compensator, Moments
from spillover.quantize.onnx_export.calibrated.layer_runs import Layer, LayerRuns
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds, chunks_of
from spillover.quantize.onnx_export.decoder_graph import products_inside
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource, matrices
from spillover.quantize.onnx_export.spec import ModelSpec

_FEWEST_TOKENS = 64


class CalibratedSource:
    """*source*, read in the order of the graph: from its first layer to the head.

    A layer's matrices are rounded for the inputs that it gets from the layers before, which are
    rounded already. One layer is held at a time, and the text as it has become there.
    """

    def __init__(
        self,
        source: WeightSource,
        options: ExportOptions,
        tokens: TokenIds,
        *,
        n_ctx: int,
    ) -> None:
        if len(tokens) < _FEWEST_TOKENS:
            raise ExportError(
                f"the calibration text has {len(tokens)} tokens: it needs {_FEWEST_TOKENS}, and "
                "some thousands are better"
            )
        self._source = source
        self._options = options
        self._runs = LayerRuns(self, options, n_ctx)
        self._chunks = chunks_of(tokens, n_ctx)
        self._n_tokens = sum(map(len, self._chunks))
        self._states = self._runs.entry(self._chunks)
        self._layer = -1
        self._compensators: dict[str, Compensator] = {}
        self._made: dict[str, Blocks] = {}

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
        if stored is not None or bits != 4 or name == EMBEDDING:
            return stored
        layer = len(self.spec.layers) if name == HEAD else int(name.split(".")[1])
        while self._layer < layer:
            self._enter(self._layer + 1)
        if name not in self._made:
            self._made[name] = self._rounded(name)
        return self._made[name]

    def _enter(self, layer: int) -> None:
        """Let the text pass the layer before, as it was rounded; see what this one multiplies."""
        if self._layer >= 0:
            before = self._runs.layer(self._layer, is_exact=False)
            self._states = [before.run(state)[0] for state in self._states]
        self._layer = layer
        self._made.clear()
        self._compensators.clear()
        if layer == len(self.spec.layers):
            moments = _moments(np.concatenate([state.x for state in self._states]))
            self._compensators[HEAD] = Compensator(moments, self._n_tokens)
            return
        self._look(self._runs.layer(layer, is_exact=True))

    def _look(self, layer: Layer) -> None:
        sums: dict[str, Moments] = {}
        for state in self._states:
            _, seen = layer.run(state)
            for value, x in {"x": state.x, **seen}.items():
                sums[value] = sums.get(value, 0) + _moments(x)
        made = {value: Compensator(moments, self._n_tokens) for value, moments in sums.items()}
        inside = products_inside(self.spec, self._layer)
        read = {product: value for value, products in inside.items() for product in products}
        for name in matrices(self.spec, self._layer):
            product = ".".join(name.split(".")[2:-1])
            self._compensators[name] = made[read.get(product, "x")]

    def _rounded(self, name: str) -> Blocks:
        matrix = self._source.values(name)
        if not np.isfinite(matrix).all():
            raise ExportError(f"{name} has values that are not numbers: the weights are damaged")
        return self._compensators[name].quantize(
            matrix, block=self._block_of(name), is_symmetric=self._options.is_symmetric
        )

    def _block_of(self, name: str) -> int:
        """The queries, keys and values, which may become one product, have blocks of one size."""
        stem, _, _ = name.rpartition("self_attn.")
        together = [f"{stem}self_attn.{part}_proj.weight" for part in "qkv"]
        names = together if name in together else [name]
        is_stored = any(self._source.exact_bits(one) == 4 for one in names)
        return BLOCK if is_stored else self._options.block


def _moments(x: Floats) -> Moments:
    return (x.T @ x).astype(np.float64)
