"""Adds RMS norms to a graph."""

from __future__ import annotations

import numpy as np

from spillover.quantize.onnx_export.graph.builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource


class LayerNorms:
    """Norms with a source's weights. A norm's name is that of its weight and of its result."""

    def __init__(self, source: WeightSource, options: ExportOptions, graph: GraphBuilder) -> None:
        self._source = source
        self._graph = graph
        self._dtype = np.float16 if options.is_half else np.float32

    def norm(self, x: str, name: str) -> str:
        return self._graph.add(
            "SimplifiedLayerNormalization",
            [x, self._weight(name)],
            [name],
            axis=-1,
            epsilon=self._source.spec.norm_epsilon,
            stash_type=1,
        )

    def add_and_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        """The norm of x + residual, and the sum."""
        total = f"{name}.residual"
        self._graph.add(
            "SkipSimplifiedLayerNormalization",
            [x, residual, self._weight(name)],
            [name, "", "", total],
            domain=MICROSOFT,
            epsilon=self._source.spec.norm_epsilon,
        )
        return name, total

    def head_norm(self, x: str, name: str, n_head: int) -> str:
        """Each head normalized by itself."""
        n_per_head = self._source.spec.n_per_head
        heads = self._graph.constant([0, 0, n_head, n_per_head])
        split = self._graph.add("Reshape", [x, heads], [f"{name}.heads"])
        normalized = self.norm(split, name)
        flat = self._graph.constant([0, 0, n_head * n_per_head])
        return self._graph.add("Reshape", [normalized, flat], [f"{name}.flat"])

    def _weight(self, name: str) -> str:
        values = self._source.values(f"{name}.weight").astype(self._dtype)
        return self._graph.initializers.add(f"{name}.weight", values)
