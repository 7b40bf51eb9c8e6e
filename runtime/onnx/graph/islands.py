"""Finds attention that is written with ONNX's own operators: its inputs and its output.

Only the edges of a layer's attention are located: the query, the new keys and values, the KV cache
and the result. The nodes in between are not interpreted but tried out (graph_trial.py).
"""

from __future__ import annotations

from msgspec import Struct
from onnx import ModelProto, NodeProto

from spillover.runtime.onnx.graph.edit import attribute, producers
from spillover.runtime.onnx.graph.layout import CacheTensor, GraphLayout
from spillover.runtime.onnx.graph.width import Widths

_CARRIERS = {"Unsqueeze", "Expand", "Reshape", "Transpose", "Cast", "Identity", "Mul", "Div"}
"""Operators that keys and values pass through on their way to a product."""
_SHAPERS = {"Reshape", "Transpose", "Identity", "Squeeze"}
"""Operators that the result passes through on its way out."""
_MOST_STEPS = 40


class Island(Struct, frozen=True, kw_only=True):
    """The attention of one layer. The fields name values; "new" means of this call's tokens."""

    query: str
    """(rows, heads, positions, size), rotated"""
    new_key: str
    """(rows, shared heads, positions, size), rotated"""
    new_value: str
    past_key: str
    past_value: str
    present_key: str
    present_value: str
    context: str
    """The result, heads side by side: (rows, positions, heads · size)."""
    masks: tuple[str, ...]
    """What is added to the scores, or selects among them."""
    n_head: int
    n_head_kv: int
    n_per_head: int
    dtype: str


class _Graph:
    """The producer and the consumers of each value."""

    def __init__(self, proto: ModelProto) -> None:
        self.made_by = producers(proto.graph)
        self.taken_by: dict[str, list[NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self.taken_by.setdefault(name, []).append(node)
        self.widths = Widths(proto)
        self.constants = self._constants(proto)

    def _constants(self, proto: ModelProto) -> set[str]:
        """Values that depend on constants and shapes alone."""
        found = {"", *(tensor.name for tensor in proto.graph.initializer)}
        for node in proto.graph.node:
            if node.op_type in ("Shape", "Size") or all(name in found for name in node.input):
                found |= set(node.output)
        return found


def find_islands(proto: ModelProto, layout: GraphLayout) -> list[Island] | None:
    """The attention of every layer; None when one is not recognized."""
    graph = _Graph(proto)
    pairs = _pairs(layout.caches)
    islands = [_island(graph, key, value) for key, value in pairs] if pairs else []
    found = [island for island in islands if island is not None]
    return found if found and len(found) == len(islands) else None


def _pairs(caches: tuple[CacheTensor, ...]) -> list[tuple[CacheTensor, CacheTensor]] | None:
    keys = {cache.layer: cache for cache in caches if cache.kind == "key"}
    values = {cache.layer: cache for cache in caches if cache.kind == "value"}
    if keys.keys() != values.keys() or len(caches) != 2 * len(keys):
        return None
    return [(keys[layer], values[layer]) for layer in sorted(keys)]


def _island(graph: _Graph, key: CacheTensor, value: CacheTensor) -> Island | None:
    new_key, new_value = _appended(graph, key), _appended(graph, value)
    scores, mix = _product(graph, key.present), _product(graph, value.present)
    if new_key is None or new_value is None or scores is None or mix is None:
        return None
    query = _query(graph, scores)
    masks = _given_mask(graph, mix) if scores is mix else _masks(graph, scores, mix)
    context = _context(graph, mix)
    if query is None or masks is None or context is None:
        return None
    n_head_kv, n_per_head = key.shape[1], key.shape[3]
    width = graph.widths.of(context)
    if key.shape != value.shape or not n_head_kv or not n_per_head or not width:
        return None
    if width % n_per_head or (width // n_per_head) % n_head_kv or key.dtype != value.dtype:
        return None
    return Island(
        query=query,
        new_key=new_key,
        new_value=new_value,
        past_key=key.past,
        past_value=value.past,
        present_key=key.present,
        present_value=value.present,
        context=context,
        masks=masks,
        n_head=width // n_per_head,
        n_head_kv=n_head_kv,
        n_per_head=n_per_head,
        dtype=key.dtype,
    )


def _appended(graph: _Graph, cache: CacheTensor) -> str | None:
    """What is appended to the past."""
    node = graph.made_by.get(cache.present)
    if node is None or node.op_type != "Concat" or len(node.input) != 2:
        return None
    if node.input[0] != cache.past or attribute(node, "axis") not in (2, -2):
        return None
    return str(node.input[1])


def _product(graph: _Graph, value: str) -> NodeProto | None:
    """The only product that *value* reaches through carriers."""
    found: list[NodeProto] = []
    open_values, steps = [value], 0
    while open_values:
        for node in graph.taken_by.get(open_values.pop(), ()):
            steps += 1
            if steps > _MOST_STEPS:
                return None
            if node.op_type in ("MatMul", "Attention"):
                found.append(node)
            elif node.op_type in _CARRIERS:
                open_values += node.output
            elif node.op_type != "Shape":
                return None
    distinct = {node.output[0]: node for node in found}
    return next(iter(distinct.values())) if len(distinct) == 1 else None


def _query(graph: _Graph, scores: NodeProto) -> str | None:
    """The first operand of the scores, before it is scaled and its heads are grouped."""
    value = str(scores.input[0])
    for _ in range(_MOST_STEPS):
        node = graph.made_by.get(value)
        if node is None:
            return None
        varying = [name for name in node.input if name not in graph.constants]
        scales = node.op_type in ("Mul", "Div") and len(varying) == 1
        if not scales and node.op_type not in ("Reshape", "Unsqueeze", "Cast", "Identity"):
            return value
        value = str(varying[0] if scales else node.input[0])
    return None


def _given_mask(graph: _Graph, node: NodeProto) -> tuple[str, ...]:
    """The mask of ONNX's own Attention, which is its fourth input."""
    return tuple(name for name in node.input[3:4] if name and name not in graph.constants)


def _masks(graph: _Graph, scores: NodeProto, mix: NodeProto) -> tuple[str, ...] | None:
    """Walk from the scores through a softmax to the mix, and return what is joined on the way."""
    masks: list[str] = []
    value, has_softmax = scores.output[0], False
    for _ in range(_MOST_STEPS):
        takers = [node for node in graph.taken_by.get(value, ()) if node.op_type != "Shape"]
        distinct = {node.output[0]: node for node in takers}
        if mix.output[0] in distinct:
            return tuple(masks) if has_softmax and mix.input[0] == value else None
        # A guard against empty rows: Where(IsNaN(x), 0, x).
        guards = [node for node in distinct.values() if node.op_type == "Where"]
        node = guards[0] if guards else next(iter(distinct.values()), None)
        if node is None or (len(distinct) > 1 and not guards):
            return None
        has_softmax = has_softmax or node.op_type == "Softmax"
        if node not in guards:
            masks += [name for name in node.input if name != value and name not in graph.constants]
        value = node.output[0]
    return None


def _context(graph: _Graph, mix: NodeProto) -> str | None:
    """The result with its heads side by side: the last of the shapers after the mix."""
    value = mix.output[0]
    for _ in range(_MOST_STEPS):
        takers = graph.taken_by.get(value, [])
        shapers = [node for node in takers if node.op_type in _SHAPERS]
        others = [node for node in takers if node.op_type not in (*_SHAPERS, "Shape")]
        if not shapers:
            return value if others else None
        if len(shapers) > 1 or others:
            return None
        value = shapers[0].output[0]
    return None
