"""Matrix products and the embedding, with weights in the format of the options."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from onnx import TensorProto

from spillover.quantize.onnx_export.blocks import Blocks, Floats, join, quantize
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.graph.builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.product_format import bits_for, block_for
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource

_ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits, so that the products run on integer units."""

_HALF = np.finfo(np.float16)


class _Stored(Struct, frozen=True, kw_only=True):
    """A matrix in blocks that the graph has: what its products name."""

    weights: list[str]
    attributes: dict[str, int]


class LinearLayers:
    """Adds products with a source's matrices to a graph."""

    def __init__(self, source: WeightSource, options: ExportOptions, graph: GraphBuilder) -> None:
        self._source = source
        self._options = options
        self._graph = graph
        self._dtype = np.float16 if options.is_half else np.float32
        self._bits = {"int4": 4, "int8": 8, "faithful": 8}.get(options.weights or "int4")
        self._head: _Stored | None = None

    def product(self, x: str, layers: Sequence[str], output: str) -> str:
        """x · (matrices of *layers* side by side)ᵀ, with their biases where they have any."""
        names = [f"{layer}.weight" for layer in layers]
        bias = self._bias(layers, output)
        if self._bits is not None:
            bits = bits_for(self._source, self._options, names, self._bits)
            size = block_for(self._source, self._options, names, bits)
            blocks = join([self._blocks(name, bits, size) for name in names])
            return self._nbits(x, self._add_blocks(blocks, output), bias, output)
        values = np.concatenate([self._source.values(name) for name in names])
        stored = self._graph.initializers.add(f"{output}.weight", values.T.astype(self._dtype))
        if not bias:
            return self._graph.add("MatMul", [x, stored], [output])
        product = self._graph.add("MatMul", [x, stored], [f"{output}.product"])
        return self._graph.add("Add", [product, bias], [output])

    def embedding(self, ids: str, output: str) -> str:
        """The rows of the embedding for *ids*."""
        if self._bits is None:
            values = self._source.values(EMBEDDING).astype(self._dtype)
            stored = self._graph.initializers.add("embedding.weight", values)
            return self._graph.add("Gather", [stored, ids], [output])
        blocks = self._whole(EMBEDDING)
        added = self._add_blocks(blocks, "embedding")
        if self._source.spec.is_tied:
            self._head = added  # not the blocks, which are large
        return self._dequantized_rows(blocks, ids, output)

    def logits(self, x: str, output: str) -> str:
        """x times the output head, which may be the embedding."""
        if self._bits is not None:
            head = self._head or self._add_blocks(self._whole(HEAD), "head")
            return self._nbits(x, head, "", output)
        if not self._source.spec.is_tied:
            values = self._source.values(HEAD).T.astype(self._dtype)
            stored = self._graph.initializers.add("head.weight", values)
            return self._graph.add("MatMul", [x, stored], [output])
        if self._options.interface == "ragged":
            return self._graph.add("Gemm", [x, "embedding.weight"], [output], transB=1)
        turned = self._graph.add("Transpose", ["embedding.weight"], ["head.weight"], perm=[1, 0])
        return self._graph.add("MatMul", [x, turned], [output])

    def _whole(self, name: str) -> Blocks:
        """The embedding or the head."""
        bits = bits_for(self._source, self._options, [name], self._options.head_bits)
        size = block_for(self._source, self._options, [name], bits)
        return self._blocks(name, bits, size)

    def _bias(self, layers: Sequence[str], output: str) -> str:
        """The name of the concatenated biases; zeros for a layer without, "" if no layer has
        any."""
        names = [f"{layer}.bias" for layer in layers]
        if not any(name in self._source.names() for name in names):
            return ""
        parts: list[Floats] = [
            self._source.values(name)
            if name in self._source.names()
            else np.zeros(self._source.shape(f"{layer}.weight")[0], np.float32)
            for name, layer in zip(names, layers, strict=True)
        ]
        stored = np.concatenate(parts).astype(self._dtype)
        return self._graph.initializers.add(f"{output}.bias", stored)

    def _blocks(self, name: str, bits: int, size: int) -> Blocks:
        stored = self._source.blocks(name, bits)
        if stored is not None:
            return stored

        def rows(start: int, stop: int) -> Floats:
            values = self._source.values(name, start, stop)
            if not np.isfinite(values).all():
                raise ExportError(
                    f"{name} has values that are not numbers: the weights are damaged"
                )
            return values

        n_rows, n_values = self._source.shape(name)
        is_symmetric = self._options.is_symmetric or name in (EMBEDDING, HEAD)
        return quantize(rows, (n_rows, n_values), bits=bits, is_symmetric=is_symmetric, block=size)

    def _add_blocks(self, blocks: Blocks, name: str) -> _Stored:
        add = self._graph.initializers.add
        add(f"{name}.blocks", blocks.packed)
        self._add_scales(blocks.scales, f"{name}.scales")
        points = blocks.packed_zero_points()
        if points is not None:
            add(f"{name}.zero_points", points)
        return _Stored(
            weights=[
                f"{name}.blocks",
                f"{name}.scales",
                "" if points is None else f"{name}.zero_points",
            ],
            attributes={
                "N": len(blocks.packed),
                "K": blocks.n_values,
                "bits": blocks.bits,
                "block_size": blocks.block,
            },
        )

    def _add_scales(self, scales: Floats, name: str) -> None:
        """Scales are stored in fp16. Sessions make fp32 of them once, when they load."""
        factor = 1.0 if self._dtype is np.float16 else _factor_for_half(scales)
        stored = (scales / np.float32(factor)).astype(np.float16)
        if self._dtype is np.float16:
            self._graph.initializers.add(name, stored)
            return
        half = self._graph.initializers.add(f"{name}.half", stored)
        if factor == 1.0:
            self._graph.add("Cast", [half], [name], to=TensorProto.FLOAT)
        else:
            full = self._graph.add("Cast", [half], [f"{name}.full"], to=TensorProto.FLOAT)
            self._graph.add("Mul", [full, self._graph.constant(factor, np.float32)], [name])

    def _nbits(self, x: str, stored: _Stored, bias: str, output: str) -> str:
        inputs = [x, *stored.weights, "", bias]
        while not inputs[-1]:
            inputs.pop()
        return self._graph.add(
            "MatMulNBits",
            inputs,
            [output],
            domain=MICROSOFT,
            **stored.attributes,
            accuracy_level=_ACCURACY_LEVEL,
        )

    def _dequantized_rows(self, blocks: Blocks, ids: str, output: str) -> str:
        """Use plain operators, which read the same bytes as the head's product and exist in every
        version of ONNX Runtime."""
        graph, middle = self._graph, 1 << (blocks.bits - 1)
        rows = graph.add("Gather", ["embedding.blocks", ids], ["embedding.rows"])
        if blocks.bits == 4:
            rows = self._halves(rows, blocks.block)
        exact = graph.add(
            "Cast", [rows], ["embedding.quanta"], to=1 if self._dtype is np.float32 else 10
        )
        exact = graph.add("Sub", [exact, graph.constant(middle, self._dtype)], ["embedding.signed"])
        scales = graph.add("Gather", ["embedding.scales", ids], ["embedding.row_scales"])
        scales = graph.add("Unsqueeze", [scales, graph.constant([-1])], ["embedding.factors"])
        values = graph.add("Mul", [exact, scales], ["embedding.values"])
        n_padded = blocks.packed.shape[1] * blocks.block
        shape = graph.constant([0, 0, n_padded])
        if n_padded == blocks.n_values:
            return graph.add("Reshape", [values, shape], [output])
        padded = graph.add("Reshape", [values, shape], ["embedding.padded"])
        ends = graph.constant([0]), graph.constant([blocks.n_values]), graph.constant([2])
        return graph.add("Slice", [padded, *ends], [output])

    def _halves(self, rows: str, size: int) -> str:
        """(…, bytes) → (…, bytes, 2): the lower and the upper four bits."""
        graph, last = self._graph, self._graph.constant([-1])
        mask, shift = graph.constant(15, np.uint8), graph.constant(4, np.uint8)
        low = graph.add("BitwiseAnd", [rows, mask], ["embedding.low"])
        high = graph.add("BitShift", [rows, shift], ["embedding.high"], direction="RIGHT")
        low = graph.add("Unsqueeze", [low, last], ["embedding.low_column"])
        high = graph.add("Unsqueeze", [high, last], ["embedding.high_column"])
        pairs = graph.add("Concat", [low, high], ["embedding.pairs"], axis=-1)
        return graph.add("Reshape", [pairs, graph.constant([0, 0, 0, size])], ["embedding.nibbles"])


def _factor_for_half(scales: Floats) -> float:
    """A power of two: *scales* divided by it are numbers that fp16 holds with all of its digits."""
    sizes = np.abs(scales[scales != 0])
    if not len(sizes) or (sizes.min() >= _HALF.tiny and sizes.max() <= _HALF.max):
        return 1.0
    return float(2.0 ** np.ceil(np.log2(sizes.max() / float(_HALF.max))))
