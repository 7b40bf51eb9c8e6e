"""Small changes to a graph's protobuf."""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """The node that produces each value."""
    return {name: node for node in graph.node for name in node.output if name}


def attribute(node: NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute."""
    return next((found.i for found in node.attribute if found.name == name), default)


def set_attribute(node: NodeProto, name: str, value: int) -> None:
    kept = [found for found in node.attribute if found.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def replace_input(node: NodeProto, place: int, name: str) -> None:
    """Make *name* the input of *node* at *place*, which may be after its last input."""
    node.input.extend([""] * (place + 1 - len(node.input)))
    node.input[place] = name


def add_input(proto: ModelProto, value: ValueInfoProto) -> None:
    if all(value.name != given.name for given in proto.graph.input):
        proto.graph.input.append(value)


def add_constant(proto: ModelProto, name: str, value: object, dtype: type[np.generic]) -> str:
    """Add an initializer and return its name. The same name twice is the same constant."""
    if all(tensor.name != name for tensor in proto.graph.initializer):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def insert_before(proto: ModelProto, node: NodeProto, added: Iterable[NodeProto]) -> None:
    """Put *added* before *node*: nodes are listed in the order in which they run."""
    at = next(i for i, other in enumerate(proto.graph.node) if other is node or other == node)
    for offset, new in enumerate(added):
        proto.graph.node.insert(at + offset, new)


def put_nodes(proto: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Make these nodes, which include old ones, the only nodes of the graph."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def sort_nodes(proto: ModelProto) -> None:
    """Put every node after those whose values it takes, as ONNX requires; not all converters do.
    Nodes of a cycle keep their places, so that the runtime reports them."""
    made_by = producers(proto.graph)
    done: dict[int, NodeProto] = {}
    for root in proto.graph.node:
        stack = [root]
        waiting: set[int] = set()
        while stack:
            node = stack[-1]
            before = [
                made_by[name]
                for name in taken_by_node(node)
                if name in made_by and id(made_by[name]) not in done
            ]
            if id(node) in done or id(node) in waiting or not before:
                done.setdefault(id(node), stack.pop())
            else:
                waiting.add(id(node))
                stack += before
    if [id(node) for node in proto.graph.node] != list(done):
        put_nodes(proto, done.values())


def prune(proto: ModelProto, *, keep_inputs: Container[str] = ()) -> None:
    """Remove nodes and initializers that no output depends on, and inputs that no node takes."""
    graph = proto.graph
    made_by = producers(graph)
    needed: set[str] = set()
    open_values = [value.name for value in graph.output]
    while open_values:
        name = open_values.pop()
        if name not in needed:
            needed.add(name)
            if name in made_by:
                open_values += taken_by_node(made_by[name])
    kept = [node for node in graph.node if needed & set(node.output)]
    if len(kept) != len(graph.node):
        put_nodes(proto, kept)
    _keep(graph.initializer, {tensor.name for tensor in graph.initializer} & needed)
    names = {value.name for value in graph.input}
    _keep(graph.input, {name for name in names if name in needed or name in keep_inputs})
    # Shapes of inner values: the runtime infers them again, and some are no longer true.
    del graph.value_info[:]


def taken_by_node(node: NodeProto) -> set[str]:
    """What a node depends on, including through its inner graphs."""
    names = set(node.input)
    for found in node.attribute:
        inner = [found.g] if found.HasField("g") else []
        for graph in (*inner, *found.graphs):
            for inner_node in graph.node:
                names |= taken_by_node(inner_node)
            names |= {value.name for value in graph.output}
    return names


def _keep(values: object, names: set[str]) -> None:
    """Delete all entries with other names from a repeated field, without copying those that
    stay."""
    for index in range(len(values) - 1, -1, -1):  # type: ignore[arg-type]  # protobuf's containers
        if values[index].name not in names:  # type: ignore[index]  # have no common type
            del values[index]  # type: ignore[attr-defined]  # see above
