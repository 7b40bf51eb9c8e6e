"""Finds a decoder's output head, the last product of its graph."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from spillover.runtime.onnx.graph.edit import producers
from spillover.runtime.onnx.graph.file import nodes_of

_PRODUCTS = {"MatMul", "MatMulNBits", "MatMulBnb4", "MatMulInteger", "FusedMatMul"}
_ROW_BY_ROW = {"Cast", "Add", "Sub", "Mul", "Div", "Tanh", "Identity", "Clip", "Min", "Max"}
"""Operators that may stand between the head and the logits."""
_CONSTANTS = {"Constant", "DynamicQuantizeLinear"}
"""Where the walk back stops. The second operator's scale is one value for all rows."""
_MOST_NODES = 16


def find_head(proto: ModelProto, logits: str) -> NodeProto | None:
    """The node whose first input is the last value with a row for each position: the head, or the
    node that rounds its input. None when what follows it is not recognized."""
    made_by = producers(proto.graph)
    tail = _tail(made_by, logits)
    if tail is None:
        return None
    heads = [node for node in tail if node.op_type in _PRODUCTS]
    if len(heads) != 1:
        return None
    first = made_by.get(heads[0].input[0])
    rounds = first is not None and first.op_type == "DynamicQuantizeLinear"
    if rounds and first is not None:
        tail.append(first)
    if _is_used_elsewhere(proto, tail, logits):
        return None
    return first if rounds else heads[0]


def _tail(made_by: dict[str, NodeProto], logits: str) -> list[NodeProto] | None:
    """All nodes from the logits back to the head; None when one of them is of another kind."""
    found: list[NodeProto] = []
    open_values = [logits]
    while open_values:
        node = made_by.get(open_values.pop())
        if node is None or node in found or node.op_type in _CONSTANTS:
            continue
        found.append(node)
        if len(found) > _MOST_NODES:
            return None
        if node.op_type in _ROW_BY_ROW:
            open_values += node.input
        elif node.op_type not in _PRODUCTS:
            return None
    return found


def _is_used_elsewhere(proto: ModelProto, tail: Iterable[NodeProto], logits: str) -> bool:
    """Whether another node, or another output of the graph, takes a value of the tail."""
    inside = {id(node) for node in tail}
    made = {name for node in tail for name in node.output if name}
    others = (node for node in nodes_of(proto.graph) if id(node) not in inside)
    if any(made & set(node.input) for node in others):
        return True
    return any(value.name in made for value in proto.graph.output if value.name != logits)
