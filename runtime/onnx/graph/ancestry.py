"""The part of a graph that a value is computed from, if it is small enough to run alone."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping

from onnx import ModelProto, NodeProto, TensorProto

from spillover.runtime.onnx.graph.edit import producers

_MOST_NODES = 400
_MOST_CONSTANT_BYTES = 16 << 20

_PLAIN_OPERATORS = {
    "Abs", "Add", "And", "Attention", "Cast", "CastLike", "Clip", "Concat", "Constant",
    "ConstantOfShape", "CumSum", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN",
    "Less", "LessOrEqual", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow",
    "Range", "Reciprocal", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
    "ScatterND", "Shape", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh",
    "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
"""Operators that may run alone: arithmetic and shapes, no loops and no input or output."""


class TooMuch(Exception):
    """The value needs weights, or a large part of the graph."""


class Ancestry:
    """The nodes that compute *value* from *ends*. Raises TooMuch.

    Only the shape of hidden states can matter: a value that would need weights, and of which only
    the shape is used, becomes an input to feed.
    """

    def __init__(self, proto: ModelProto, value: str, ends: Container[str]) -> None:
        self._made_by = producers(proto.graph)
        self._initializers: dict[str, TensorProto] = {
            tensor.name: tensor for tensor in proto.graph.initializer
        }
        self._ends = ends
        found = self._trace(value)
        if found is None:
            raise TooMuch
        made, names, self.measured = found
        self.nodes: list[NodeProto] = [
            node for node in proto.graph.node if node.output and node.output[0] in made
        ]
        self.constants = [self._initializers[name] for name in sorted(names)]

    def feeds(self) -> list[str]:
        """The inputs to feed: the ends that are used, and the values of which only the shape is
        used."""
        taken = {name for node in self.nodes for name in node.input}
        return sorted({name for name in taken if name in self._ends} | self.measured)

    def signature(self, roles: Mapping[str, str]) -> str:
        """A key that is equal for ancestries that compute the same from values with the same
        *roles*."""
        digest = hashlib.sha256()
        known = dict.fromkeys(self.measured, "shape") | dict(roles)
        for tensor in self.constants:
            content = TensorProto.FromString(tensor.SerializeToString())
            content.name = ""
            known[tensor.name] = hashlib.sha256(content.SerializeToString()).hexdigest()
        for number, node in enumerate(self.nodes):
            copy = NodeProto.FromString(node.SerializeToString())
            copy.name = copy.doc_string = ""
            copy.input[:] = [known.get(name, name) for name in node.input]
            for place, name in enumerate(node.output):
                known[name] = copy.output[place] = f"{number}.{place}"
            # Exporters' notes on the origin of a node.
            del copy.metadata_props[:]
            digest.update(copy.SerializeToString(deterministic=True))
        return digest.hexdigest()

    def _trace(self, value: str) -> tuple[set[str], set[str], set[str]] | None:
        """First outputs of the nodes, constants, and inputs to feed; None when there are too
        many."""
        made: set[str] = set()
        constants: set[str] = set()
        measured: set[str] = set()
        open_values = [value]
        while open_values:
            name = open_values.pop()
            if not name or name in self._ends or name in constants:
                continue
            if name in self._initializers:
                if _is_weight(self._initializers[name]):
                    return None
                constants.add(name)
                continue
            node = self._made_by.get(name)
            if node is None or len(made) > _MOST_NODES or not _is_plain(node):
                return None
            if node.output[0] in made:
                continue
            made.add(node.output[0])
            if node.op_type != "Shape":
                open_values += node.input
                continue
            inner = self._trace(node.input[0])
            if inner is None:
                measured.add(node.input[0])
            else:
                made, constants = made | inner[0], constants | inner[1]
                measured |= inner[2]
        return made, constants, measured


def _is_plain(node: NodeProto) -> bool:
    return node.op_type in _PLAIN_OPERATORS and node.domain in ("", "ai.onnx")


def _is_weight(tensor: TensorProto) -> bool:
    """Whether it is a matrix of numbers; masks that are kept as tables hold truth values."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.ByteSize() > _MOST_CONSTANT_BYTES:
        return True
    is_matrix = sum(size > 1 for size in tensor.dims) > 1
    return is_matrix and tensor.data_type not in (TensorProto.BOOL, TensorProto.INT64)
