"""Plain attention → GroupQueryAttention, which keeps its KV cache in place and takes many rows."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from spillover.runtime.onnx.graph.edit import (
    MICROSOFT,
    add_constant,
    add_input,
    attribute,
    producers,
    prune,
    put_nodes,
)
from spillover.runtime.onnx.graph.inspect import inspect
from spillover.runtime.onnx.graph.islands import Island, find_islands
from spillover.runtime.onnx.graph.layout import GraphLayout
from spillover.runtime.onnx.graph.trial import AttentionTrial, NotPlainAttention, PlainAttention

_LONGEST_CONTEXT = 131_072
_PROJECTIONS = {"MatMul", "MatMulNBits", "MatMulBnb4", "Add", "Mul", "Cast"}


def rewritten_to_gqa(
    proto: ModelProto, layout: GraphLayout, *, n_ctx: int | None = None, on_cpu: bool = True
) -> GraphLayout | None:
    """Rewrite the graph in place and return its new layout. Return None and change nothing when a
    layer's attention is not found, or a trial shows that it differs from GroupQueryAttention's.

    *n_ctx*: the longest attention window to look for.
    """
    if layout.attention != "growing" or layout.inputs.branch is not None:
        return None
    islands = find_islands(proto, layout)
    if islands is None:
        return None
    longest = min(n_ctx or layout.n_ctx or 32_768, _LONGEST_CONTEXT)
    try:
        kinds = _kinds(proto, islands, layout, longest)
    except NotPlainAttention:
        return None
    if _past_is_used_elsewhere(proto, islands):
        return None
    _rewrite(proto, list(zip(islands, kinds, strict=True)))
    return inspect(proto, on_cpu=on_cpu)


def _kinds(
    proto: ModelProto, islands: list[Island], layout: GraphLayout, longest: int
) -> list[PlainAttention]:
    """The kind of each layer; identical layers are tried only once. Raises NotPlainAttention."""
    kinds: list[PlainAttention] = []
    tried: dict[str, PlainAttention] = {}
    for island in islands:
        trial = AttentionTrial(proto, island, layout.inputs)
        signature = trial.signature()
        if signature not in tried:
            tried[signature] = trial.attention(longest)
        kinds.append(tried[signature])
    return kinds


def _past_is_used_elsewhere(proto: ModelProto, islands: list[Island]) -> bool:
    """Whether a node that stays uses the past or its length, for instance to count positions. A
    shared buffer is longer than what it holds."""
    taken = {}
    for island in islands:
        sources = (island.query, island.new_key, island.new_value)
        taken.update(
            dict.fromkeys((island.context, island.present_key, island.present_value), sources)
        )
    pasts = {name for island in islands for name in (island.past_key, island.past_value)}
    sizes = _OtherSizes(proto, pasts)
    made_by = producers(proto.graph)
    needed: set[str] = set()
    open_values = [value.name for value in proto.graph.output]
    while open_values:
        name = open_values.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in taken:
            open_values += taken[name]
        elif name in made_by and not sizes.are_all_of(made_by[name]):
            open_values += made_by[name].input
    return bool(pasts & needed)


class _OtherSizes:
    """Recognizes nodes that read a size of a past, such as its number of rows, but not its
    length."""

    def __init__(self, proto: ModelProto, pasts: set[str]) -> None:
        self._shapes = {
            node.output[0]: node
            for node in proto.graph.node
            if node.op_type == "Shape" and node.input[0] in pasts
        }
        self._values = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in proto.graph.initializer
            if tensor.data_type == TensorProto.INT64 and tensor.data_location == 0
        }
        for node in proto.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self._values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def are_all_of(self, node: NodeProto) -> bool:
        """Whether the node returns sizes of a past other than its length, the third."""
        if node.op_type == "Shape":
            return node.output[0] in self._shapes and 2 not in _axes(node)
        if node.op_type != "Gather" or node.input[0] not in self._shapes:
            return False
        index = self._values.get(node.input[1])
        if index is None:
            return False
        axes = dict(enumerate(_axes(self._shapes[node.input[0]])))
        return all(axes.get(place, 2) != 2 for place in index.reshape(-1).tolist())


def _axes(shape: NodeProto) -> list[int]:
    """Which of four sizes a Shape returns."""
    return list(range(4))[attribute(shape, "start", 0) : attribute(shape, "end", 4)]


def _rewrite(proto: ModelProto, islands: list[tuple[Island, PlainAttention]]) -> None:
    made_by = producers(proto.graph)
    replaced: dict[str, list[NodeProto]] = {}
    dropped: set[str] = set()
    for number, (island, kind) in enumerate(islands):
        at = made_by[island.context].output[0]
        replaced[at] = _nodes(proto, made_by, island, kind, f"gqa.{number}")
        dropped |= {at, island.present_key, island.present_value}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        nodes += replaced.get(node.output[0], [])
        if node.output[0] not in dropped:
            nodes.append(node)
    put_nodes(proto, nodes)
    info, int32 = helper.make_tensor_value_info, TensorProto.INT32
    add_input(proto, info("seqlens_k", int32, ["batch_size"]))
    add_input(proto, info("total_sequence_length", int32, []))
    if all(opset.domain != MICROSOFT for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    prune(proto)


def _nodes(
    proto: ModelProto,
    made_by: dict[str, NodeProto],
    island: Island,
    kind: PlainAttention,
    name: str,
) -> list[NodeProto]:
    """The operator, and the nodes that reshape its inputs and its output."""
    nodes: list[NodeProto] = []
    flat = []
    for value, heads, part in (
        (island.query, island.n_head, "query"),
        (island.new_key, island.n_head_kv, "key"),
        (island.new_value, island.n_head_kv, "value"),
    ):
        width = heads * island.n_per_head
        flat.append(_flat(proto, made_by, nodes, value, width, f"{name}.{part}"))
    nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            [*flat, island.past_key, island.past_value, "seqlens_k", "total_sequence_length"],
            [f"{name}.context", island.present_key, island.present_value],
            name=name,
            domain=MICROSOFT,
            num_heads=island.n_head,
            kv_num_heads=island.n_head_kv,
            scale=kind.scale,
            local_window_size=kind.window or -1,
            do_rotary=0,
        )
    )
    last = made_by[island.context]
    if last.op_type == "Reshape":
        # The graph's own shape: some graphs keep rows and positions apart, some merge them.
        nodes.append(
            helper.make_node("Reshape", [f"{name}.context", last.input[1]], [island.context])
        )
    else:
        nodes.append(helper.make_node("Identity", [f"{name}.context"], [island.context]))
    return nodes


def _flat(
    proto: ModelProto,
    made_by: dict[str, NodeProto],
    nodes: list[NodeProto],
    value: str,
    width: int,
    name: str,
) -> str:
    """(rows, heads, positions, size) → (rows, positions, heads · size), or the original value where
    the heads were only split."""
    origin = _before_split(made_by, value)
    if origin is not None:
        return origin
    shape = add_constant(proto, f"gqa.shape.{width}", [0, 0, width], np.int64)
    nodes.append(
        helper.make_node("Transpose", [value], [f"{name}.turned"], perm=[0, 2, 1, 3], name=name)
    )
    nodes.append(helper.make_node("Reshape", [f"{name}.turned", shape], [f"{name}.flat"]))
    return f"{name}.flat"


def _before_split(made_by: dict[str, NodeProto], value: str) -> str | None:
    """The projection, if *value* is only a view of it with its heads split."""
    turned = made_by.get(value)
    if turned is None or turned.op_type != "Transpose" or not _swaps_heads(turned):
        return None
    split = made_by.get(turned.input[0])
    if split is None or split.op_type != "Reshape":
        return None
    origin = made_by.get(split.input[0])
    if origin is None or origin.op_type not in _PROJECTIONS:
        return None
    return str(split.input[0])


def _swaps_heads(node: NodeProto) -> bool:
    perm = next((list(found.ints) for found in node.attribute if found.name == "perm"), [])
    return perm == [0, 2, 1, 3]
