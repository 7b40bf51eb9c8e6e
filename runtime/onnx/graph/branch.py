"""Merged decoders: one graph with a branch for the first call and one for all later ones."""

from __future__ import annotations

import msgspec
from onnx import GraphProto, ModelProto, NodeProto, helper

from spillover.runtime.onnx.graph.edit import prune, put_nodes
from spillover.runtime.onnx.graph.layout import GraphLayout


def with_past_alone(proto: ModelProto, layout: GraphLayout) -> GraphLayout:
    """The graph without its If: the branch for later calls, which with an empty past does the same
    as the other. A graph that is built differently is left as it is."""
    node = _choice(proto.graph, layout.inputs.branch)
    if node is None:
        return layout
    branch = next(found.g for found in node.attribute if found.name == "then_branch")
    names = dict(zip((value.name for value in branch.output), node.output, strict=True))
    nodes = [_renamed(inner, names) for inner in branch.node]
    made = {name for inner in nodes for name in inner.output}
    nodes += [
        helper.make_node("Identity", [inner], [outer], name=outer)
        for inner, outer in names.items()
        if outer not in made
    ]
    before = list(proto.graph.node)
    at = next(i for i, other in enumerate(before) if other is node)
    ordered = [*before[:at], *nodes, *before[at + 1 :]]
    initializers = list(branch.initializer)
    proto.graph.initializer.extend(initializers)
    put_nodes(proto, ordered)
    prune(proto, keep_inputs={layout.inputs.ids})
    return msgspec.structs.replace(
        layout, inputs=msgspec.structs.replace(layout.inputs, branch=None)
    )


def _choice(graph: GraphProto, branch: str | None) -> NodeProto | None:
    """The only If of the graph, when the input selects its branch."""
    choices: list[NodeProto] = [node for node in graph.node if node.op_type == "If"]
    if branch is None or len(choices) != 1 or choices[0].input[0] != branch:
        return None
    return choices[0]


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """The node with the names that its inputs and outputs have outside the branch."""
    copy: NodeProto = NodeProto.FromString(node.SerializeToString())
    for values in (copy.input, copy.output):
        for place, name in enumerate(values):
            values[place] = names.get(name, name)
    return copy
