"""Finds the width of a value from the weights that multiply it."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

from spillover.runtime.onnx.graph.edit import attribute, producers

_PRODUCTS = ("MatMul", "MatMulInteger", "Gemm", "FusedMatMul")
_SAME_WIDTH = ("DynamicQuantizeLinear", "Cast", "Identity")


class Widths:
    """Looks up widths in a graph."""

    def __init__(self, proto: ModelProto) -> None:
        self._made_by = producers(proto.graph)
        self._taken_by: dict[str, list[NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self._taken_by.setdefault(name, []).append(node)
        self._initializers: dict[str, TensorProto] = {
            tensor.name: tensor for tensor in proto.graph.initializer
        }

    def of(self, value: str) -> int | None:
        """The size of the last axis; None when no product determines it."""
        for node in self._taken_by.get(value, ()):
            width = None
            if node.op_type in ("MatMulNBits", "MatMulBnb4"):
                width = attribute(node, "K")
            elif node.op_type in _SAME_WIDTH:
                width = self.of(node.output[0])
            elif node.op_type in _PRODUCTS and node.input[0] == value:
                width = self._rows(node.input[1], turned=attribute(node, "transB") == 1)
            if width:
                return width
        return None

    def _rows(self, weight: str, *, turned: bool) -> int | None:
        tensor = self._weight(weight)
        if tensor is None or len(tensor.dims) != 2:
            return None
        return int(tensor.dims[1 if turned else 0])

    def _weight(self, name: str) -> TensorProto | None:
        """The initializer of that name, also behind a conversion."""
        for _ in range(3):
            if name in self._initializers:
                return self._initializers[name]
            node = self._made_by.get(name)
            if node is None or node.op_type not in ("Cast", "DequantizeLinear", "Identity"):
                return None
            name = node.input[0]
        return None
