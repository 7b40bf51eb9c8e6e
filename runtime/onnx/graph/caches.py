"""Finds the KV cache among a graph's inputs and outputs, by name or else by how nodes use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from onnx import ModelProto, NodeProto, ValueInfoProto

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.graph.edit import attribute
from spillover.runtime.onnx.graph.layout import CacheTensor
from spillover.runtime.onnx.graph.types import dtype_of, shape_of
from spillover.runtime.onnx.graph.width import Widths

MAX_VALUES_PER_POSITION = 1 << 20
"""For one cache tensor; the widest known has 8 heads of 512."""

_NAMES = (
    re.compile(r"past_key_values[._](?P<layer>\d+)[._](?:decoder[._])?(?P<kind>key|value)"),
    re.compile(r"past_(?P<kind>key|value)(?:_values?|s)?[._](?P<layer>\d+)"),
    re.compile(r"past_key_values[._](?P<kind>key|value)[._](?P<layer>\d+)"),
    re.compile(r"(?P<kind>key|value)_cache[._](?P<layer>\d+)"),
    re.compile(r"cache[._](?P<kind>key|value)[._](?P<layer>\d+)"),
    re.compile(r"past[._](?P<layer>\d+)[._](?P<kind>key|value)"),
    re.compile(r"past[._](?P<layer>\d+)"),
)
_RENAMES = (
    ("past_key_values", "present"),
    ("past_key_values", "present_key_values"),
    ("past", "present"),
    ("cache", "present"),
    ("", "present_"),
    ("", "updated_"),
    ("", "new_"),
    ("cache", "cache_out"),
)
# Which input of an attention operator is the past and which output the present that follows it.
_PLACES = {
    ("GroupQueryAttention", "com.microsoft"): ((3, 1), (4, 2)),
    ("MultiHeadAttention", "com.microsoft"): ((6, 1), (7, 2)),
    ("Attention", "com.microsoft"): ((4, 1),),
    ("Attention", ""): ((4, 1), (5, 2)),
    ("TensorScatter", ""): ((0, 0),),
}

Kind = Literal["key", "value", "both"]


def find_caches(proto: ModelProto) -> tuple[CacheTensor, ...]:
    """The KV cache by layer, key before value; empty when the graph has none. Raises ModelError."""
    outputs = {value.name for value in proto.graph.output}
    by_nodes = _presents_by_nodes(proto, outputs)
    found = []
    widths = Widths(proto)
    users = {node.input[place]: node for node in proto.graph.node for place in _gqa_places(node)}
    for value in proto.graph.input:
        named = _named(value.name)
        present = by_nodes.get(value.name) or _renamed(value.name, outputs)
        if named is not None and present is not None:
            shape = _completed(shape_of(value), users.get(value.name), widths)
            found.append(_cache(value, shape, present, *named))
    _refuse_twins(found)
    return tuple(sorted(found, key=lambda cache: (cache.layer, cache.kind)))


def _named(name: str) -> tuple[int, Kind] | None:
    for pattern in _NAMES:
        match = pattern.search(name)
        if match is not None:
            kind = match.groupdict().get("kind", "both")
            return int(match["layer"][:9]), "key" if kind == "key" else (
                "value" if kind == "value" else "both"
            )
    return None


def _renamed(past: str, outputs: set[str]) -> str | None:
    for old, new in _RENAMES:
        present = past.replace(old, new, 1)
        if present in outputs and present != past:
            return present
    return None


def _presents_by_nodes(proto: ModelProto, outputs: set[str]) -> dict[str, str]:
    """Past → present, where an operator takes the one and returns the other."""
    inputs = {value.name for value in proto.graph.input}
    return {
        past: present
        for node in proto.graph.node
        for past, present in _places(node)
        if past in inputs and present in outputs
    }


def _places(node: NodeProto) -> Iterable[tuple[str, str]]:
    if node.op_type == "Concat" and len(node.input) == 2:
        yield node.input[0], node.output[0]
    domain = "" if node.domain == "ai.onnx" else node.domain
    for given, made in _PLACES.get((node.op_type, domain), ()):
        if given < len(node.input) and made < len(node.output):
            yield node.input[given], node.output[made]


def _gqa_places(node: NodeProto) -> list[int]:
    """Where GroupQueryAttention takes a past."""
    if node.op_type != "GroupQueryAttention":
        return []
    return [place for place in (3, 4) if place < len(node.input) and node.input[place]]


def _completed(
    shape: tuple[int | None, ...], user: NodeProto | None, widths: Widths
) -> tuple[int | None, ...]:
    """The shape, completed with sizes that the graph leaves open but its operator reveals."""
    if user is None or len(shape) != 4:
        return shape
    n_head, n_head_kv = attribute(user, "num_heads"), attribute(user, "kv_num_heads")
    width = widths.of(user.output[0])
    size = width // n_head if width and n_head and not width % n_head else None
    return (shape[0], shape[1] or n_head_kv or None, shape[2], shape[3] or size)


def _cache(
    value: ValueInfoProto, shape: tuple[int | None, ...], present: str, layer: int, kind: Kind
) -> CacheTensor:
    dtype = dtype_of(value)
    if len(shape) != (5 if kind == "both" else 4):
        raise ModelError(
            f"the KV cache input {value.name!r} has {len(shape)} dimensions: such a cache is not "
            "supported"
        )
    if dtype not in ("float32", "float16", "bfloat16", "int8", "uint8"):
        raise ModelError(f"the KV cache input {value.name!r} holds {dtype}: it is not supported")
    batch_axis = 1 if kind == "both" else 0
    length_axis = batch_axis + 2
    width = 1
    for axis, size in enumerate(shape):
        if axis in (batch_axis, length_axis):
            continue
        if size is None:
            raise ModelError(
                f"the KV cache input {value.name!r} leaves its number of heads or their size "
                "open: export the model with fixed ones"
            )
        width *= size
    if not 0 < width <= MAX_VALUES_PER_POSITION:
        raise ModelError(f"the KV cache input {value.name!r} claims the shape {shape}")
    return CacheTensor(
        layer=layer,
        kind=kind,
        past=value.name,
        present=present,
        dtype=dtype,
        shape=shape,
        batch_axis=batch_axis,
        length_axis=length_axis,
    )


def _refuse_twins(caches: Sequence[CacheTensor]) -> None:
    places = {(cache.layer, cache.kind) for cache in caches}
    if len(places) != len(caches) or len({cache.present for cache in caches}) != len(caches):
        raise ModelError("two inputs of the graph are the KV cache of the same layer")
