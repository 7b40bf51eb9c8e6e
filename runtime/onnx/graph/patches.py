"""Changes to a graph before a session is made of it. Weights in other files are not touched.

Each returns the layout of the changed graph. A graph that a change does not fit is left as it is.
"""

from __future__ import annotations

import msgspec
from onnx import ModelProto, NodeProto, TensorProto, TensorShapeProto, helper

from spillover.runtime.onnx.graph.edit import (
    add_input,
    attribute,
    insert_before,
    prune,
    put_nodes,
    replace_input,
    set_attribute,
)
from spillover.runtime.onnx.graph.file import nodes_of
from spillover.runtime.onnx.graph.head import find_head
from spillover.runtime.onnx.graph.layout import CacheTensor, GraphInputs, GraphLayout

_SOUND_HALF_PRODUCTS = (1, 24)
"""Before this version, integer products of small fp16 matrices read uninitialized memory."""
_FIXED_WINDOWS = (1, 24)
"""Before this version of ONNX Runtime, a window of n positions showed n + 1."""


def with_integer_products(proto: ModelProto, runtime_version: tuple[int, int]) -> int:
    """Let 4-bit and 8-bit products round their activations to 8 bits where the graph leaves the
    choice to the runtime, which then computes in fp32. Returns how many it changed."""
    halves = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and runtime_version < _SOUND_HALF_PRODUCTS
    }
    n_changed = 0
    for node in nodes_of(proto.graph):
        if node.op_type != "MatMulNBits" or halves & set(node.input):
            continue
        if attribute(node, "accuracy_level") == 0:
            set_attribute(node, "accuracy_level", 4)
            n_changed += 1
    return n_changed


def without_empty_inputs(proto: ModelProto) -> None:
    """Drop trailing input names that are empty: older runtimes know fewer inputs."""
    for node in nodes_of(proto.graph):
        while node.input and not node.input[-1]:
            node.input.pop()


def with_lengths(
    proto: ModelProto, layout: GraphLayout, *, query_lengths: bool = False
) -> GraphLayout:
    """Make the lengths of the rows inputs, instead of counting them from a mask; and also the
    number of new tokens per row, where the runtime supports that (1.32)."""
    if layout.attention != "gqa":
        return layout
    inputs = layout.inputs
    seqlens_k, total = (
        inputs.seqlens_k or "seqlens_k",
        inputs.total_length or "total_sequence_length",
    )
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
    prune(proto, keep_inputs={layout.inputs.ids})
    return _with_inputs(
        proto, layout, seqlens_k=seqlens_k, total_length=total, query_lengths=queries
    )


def with_caches_as_computed(proto: ModelProto, layout: GraphLayout) -> GraphLayout:
    """Keep the KV cache in the type that the graph computes in, where the graph converts it on its
    way in and out: half the memory, and no full copy at every step."""
    pairs = [_conversions(proto, cache) for cache in layout.caches]
    found = [pair for pair in pairs if pair is not None]
    kinds = {attribute(before, "to") for before, _ in found}
    if len(found) != len(layout.caches) or kinds != {TensorProto.FLOAT16}:
        return layout
    names: dict[str, str] = {}
    for (before, after), cache in zip(found, layout.caches, strict=True):
        names |= {before.output[0]: cache.past, after.input[0]: cache.present}
    gone = {id(node) for pair in found for node in pair}
    put_nodes(proto, [node for node in proto.graph.node if id(node) not in gone])
    for node in proto.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    changed = {cache.past for cache in layout.caches} | {cache.present for cache in layout.caches}
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in changed:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del proto.graph.value_info[:]
    caches = tuple(msgspec.structs.replace(cache, dtype="float16") for cache in layout.caches)
    return msgspec.structs.replace(layout, caches=caches)


def _conversions(proto: ModelProto, cache: CacheTensor) -> tuple[NodeProto, NodeProto] | None:
    """The Cast behind the past and the one before the present, when there is nothing else."""
    takers = [node for node in proto.graph.node if cache.past in node.input]
    makers = [node for node in proto.graph.node if cache.present in node.output]
    nodes = [*takers, *makers]
    if [node.op_type for node in nodes] != ["Cast", "Cast"] or cache.dtype != "float32":
        return None
    return takers[0], makers[0]


def with_asked_logits(proto: ModelProto, layout: GraphLayout) -> GraphLayout:
    """Compute logits of the requested positions only: the output head is a large part of a
    prefill."""
    if layout.logits_form != "all" or layout.inputs.n_logits is not None:
        return layout
    head = find_head(proto, layout.logits)
    if head is None:
        return layout
    # (rows, positions, width) → (rows · positions, width) → (asked, width)
    flat = helper.make_node("Flatten", [head.input[0]], ["asked.flat"], name="asked.flat", axis=2)
    rows = helper.make_node("Gather", ["asked.flat", "logits_rows"], ["asked.rows"], name="asked")
    insert_before(proto, head, [flat, rows])
    replace_input(head, 0, "asked.rows")
    add_input(proto, helper.make_tensor_value_info("logits_rows", TensorProto.INT64, ["n_logits"]))
    for output in proto.graph.output:
        if output.name == layout.logits:
            _make_two_dimensional(output.type.tensor_type.shape)
    prune(proto, keep_inputs={layout.inputs.ids})
    changed = _with_inputs(proto, layout, logits_rows="logits_rows")
    return msgspec.structs.replace(changed, logits_form="asked")


def with_exact_windows(proto: ModelProto, runtime_version: tuple[int, int]) -> int:
    """Make attention windows as wide as the model means them, for a runtime that counts them from
    zero. Returns how many it changed."""
    n_changed = 0
    if runtime_version >= _FIXED_WINDOWS:
        return 0
    for node in nodes_of(proto.graph):
        window = attribute(node, "local_window_size", -1)
        if node.op_type == "GroupQueryAttention" and window > 0:
            set_attribute(node, "local_window_size", window - 1)
            n_changed += 1
    return n_changed


def _with_inputs(proto: ModelProto, layout: GraphLayout, **names: str | None) -> GraphLayout:
    """The layout with these inputs added, and without those that are gone."""
    left = {value.name for value in proto.graph.input}
    before = msgspec.structs.asdict(layout.inputs)
    after = {purpose: name for purpose, name in {**before, **names}.items() if name in left}
    return msgspec.structs.replace(layout, inputs=GraphInputs(**after))


def _make_two_dimensional(shape: TensorShapeProto) -> None:
    vocabulary = TensorShapeProto.Dimension.FromString(shape.dim[-1].SerializeToString())
    del shape.dim[:]
    shape.dim.append(TensorShapeProto.Dimension(dim_param="n_logits"))
    shape.dim.append(vocabulary)
