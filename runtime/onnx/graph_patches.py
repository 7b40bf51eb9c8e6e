"""Changes to a graph before a session is made of it. Weights in other files are not touched.

Each gives the layout of the changed graph; a graph that a change does not fit stays as it is.
"""

from __future__ import annotations

import msgspec
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from spillover.runtime.onnx.graph_edit import (
    add_constant,
    add_input,
    attribute,
    insert_before,
    n_uses,
    producers,
    prune,
    replace_input,
    set_attribute,
)
from spillover.runtime.onnx.graph_file import nodes_of
from spillover.runtime.onnx.graph_layout import GraphInputs, GraphLayout

_PRODUCTS = {"MatMul", "MatMulNBits", "MatMulBnb4", "MatMulInteger", "Gemm", "FusedMatMul"}
_ROW_BY_ROW = {
    "Cast", "Add", "Sub", "Mul", "Div", "Tanh", "DequantizeLinear", "Identity", "Clip",
}  # fmt: skip
"""What may stand between the output head and the logits."""
_MOST_STEPS = 12
_FIXED_WINDOWS = (1, 23)
"""Before this version of ONNX Runtime, a window of n positions showed n + 1."""


def with_integer_products(proto: ModelProto) -> int:
    """Let 4-bit and 8-bit products round their activations to 8 bits where the graph leaves the
    choice to the runtime, which then computes in fp32; how many it changed."""
    n_changed = 0
    for node in nodes_of(proto.graph):
        if node.op_type == "MatMulNBits" and attribute(node, "accuracy_level") == 0:
            set_attribute(node, "accuracy_level", 4)
            n_changed += 1
    return n_changed


def with_lengths(
    proto: ModelProto, layout: GraphLayout, *, query_lengths: bool = False
) -> GraphLayout:
    """Lengths of the rows as inputs, instead of a mask that they are counted from; and how many
    new tokens of each row count, where the runtime knows that (1.32)."""
    if layout.attention != "gqa":
        return layout
    inputs = layout.inputs
    seqlens_k, total = inputs.seqlens_k or "seqlens_k", inputs.total_length or "total_length"
    info, int32 = helper.make_tensor_value_info, TensorProto.INT32
    add_input(proto, info(seqlens_k, int32, ["batch_size"]))
    add_input(proto, info(total, int32, []))
    queries = inputs.query_lengths
    if query_lengths and queries is None:
        queries = "query_seqlens"
        add_input(proto, info(queries, int32, ["batch_size"]))
    for node in nodes_of(proto.graph):
        if node.op_type == "GroupQueryAttention":
            replace_input(node, 5, seqlens_k)
            replace_input(node, 6, total)
            if queries is not None:
                replace_input(node, 16, queries)
    prune(proto)
    return _with_inputs(
        proto, layout, seqlens_k=seqlens_k, total_length=total, query_lengths=queries
    )


def with_asked_logits(proto: ModelProto, layout: GraphLayout) -> GraphLayout:
    """Logits of the asked positions only: the output head is a large part of reading a prompt."""
    if layout.logits_form != "all" or layout.inputs.n_logits is not None:
        return layout
    found = _head(proto, layout.logits)
    if found is None:
        return layout
    node, place = found
    hidden = node.input[place]
    flat = add_constant(proto, "asked.shape", [0, -1], np.int64)
    # (rows, positions, width) → (rows · positions, width), whatever the width is.
    added = [
        helper.make_node("Flatten", [hidden], ["asked.flat"], name="asked.flat", axis=2),
        helper.make_node("Gather", ["asked.flat", "logits_rows"], ["asked.rows"], name="asked.rows"),
    ]
    del flat
    insert_before(proto, node, added)
    replace_input(node, place, "asked.rows")
    add_input(proto, helper.make_tensor_value_info("logits_rows", TensorProto.INT64, ["n_logits"]))
    for output in proto.graph.output:
        if output.name == layout.logits:
            _drop_axis(output.type.tensor_type.shape)
    prune(proto)
    changed = _with_inputs(proto, layout, logits_rows="logits_rows")
    return msgspec.structs.replace(changed, logits_form="asked")


def with_exact_windows(proto: ModelProto, runtime_version: tuple[int, int]) -> int:
    """Windows of attention as wide as the model means them, with a runtime that counts them from
    zero; how many it changed."""
    n_changed = 0
    if runtime_version >= _FIXED_WINDOWS:
        return 0
    for node in nodes_of(proto.graph):
        window = attribute(node, "local_window_size", -1)
        if node.op_type == "GroupQueryAttention" and window > 0:
            set_attribute(node, "local_window_size", window - 1)
            n_changed += 1
    return n_changed


def _head(proto: ModelProto, logits: str) -> tuple[NodeProto, int] | None:
    """The node whose input holds a row per position for the last time, and that input's place:
    the output head, or what rounds its input."""
    made_by, uses = producers(proto.graph), n_uses(proto)
    value = logits
    for _ in range(_MOST_STEPS):
        node = made_by.get(value)
        if node is None or any(uses.get(name, 0) > 1 for name in node.output):
            return None
        if node.op_type in _PRODUCTS:
            return _input_of_product(node, made_by)
        if node.op_type not in _ROW_BY_ROW:
            return None
        varying = [name for name in node.input if name in made_by]
        if len(varying) > 1:
            varying = [name for name in varying if made_by[name].op_type != "Constant"]
        varying = [name for name in varying if not _is_scale(made_by[name])]
        if len(varying) != 1:
            return None
        value = varying[0]
    return None
