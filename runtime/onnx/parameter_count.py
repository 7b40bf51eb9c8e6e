"""How many parameters a graph has, whatever they are packed into."""

from __future__ import annotations

from math import prod

from onnx import ModelProto, NodeProto, TensorProto

from spillover.runtime.onnx.graph.file import nodes_of

_WEIGHT_PLACES = {"MatMulNBits": 1, "MatMulBnb4": 1, "GatherBlockQuantized": 0}
"""Which input of an operator is its packed weight."""
_WEIGHT_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
)


def count_parameters(proto: ModelProto) -> int:
    """A number for people: tables such as those of rotary positions count too."""
    sizes: dict[str, int] = {t.name: prod(t.dims) for t in proto.graph.initializer}
    n_params, packed = 0, set[str]()
    for node in nodes_of(proto.graph):
        place = _WEIGHT_PLACES.get(node.op_type)
        if place is None:
            continue
        if node.input[place] not in packed:
            n_params += _n_packed(node, sizes)
        packed.update(name for name in node.input if name in sizes)
    return n_params + sum(
        sizes[tensor.name]
        for tensor in proto.graph.initializer
        if tensor.name not in packed and tensor.data_type in _WEIGHT_TYPES
    )


def _n_packed(node: NodeProto, sizes: dict[str, int]) -> int:
    numbers: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "GatherBlockQuantized":
        return sizes.get(node.input[2], 0) * (numbers.get("block_size") or 128)
    return numbers.get("N", 0) * numbers.get("K", 0)
