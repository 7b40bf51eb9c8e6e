"""How a graph's weights are stored, and how many parameters there are, for display."""

from __future__ import annotations

from collections import Counter
from math import prod

from onnx import ModelProto, NodeProto, TensorProto

from spillover.runtime.onnx.graph.file import nodes_of

_TYPES = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
}


def describe_weights(proto: ModelProto) -> str:
    """The most common storage, by number of values: "int4 in blocks of 32", "int8", "fp16"…"""
    counts: Counter[str] = Counter()
    packed: set[str] = set()
    for node in nodes_of(proto.graph):
        if node.op_type in ("MatMulNBits", "MatMulBnb4") and len(node.input) > 1:
            packed.add(node.input[1])
            counts[_blocks(node)] += _number(node, "N") * _number(node, "K")
    for tensor in proto.graph.initializer:
        if tensor.name not in packed and tensor.data_type in _TYPES and len(tensor.dims) > 1:
            counts[_TYPES[tensor.data_type]] += _n_values(tensor)
    return counts.most_common(1)[0][0] if counts else "unknown"


def _blocks(node: NodeProto) -> str:
    name = "NF4" if node.op_type == "MatMulBnb4" else f"int{_number(node, 'bits') or 4}"
    return f"{name} in blocks of {_number(node, 'block_size')}"


def _number(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _n_values(tensor: TensorProto) -> int:
    n = 1
    for size in tensor.dims:
        n *= size
    return n


_WEIGHT_PLACES = {"MatMulNBits": 1, "MatMulBnb4": 1, "GatherBlockQuantized": 0}
"""The index of an operator's packed weight among its inputs."""
_WEIGHT_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
)


def count_parameters(proto: ModelProto) -> int:
    """A number for display: it also counts tables such as those of rotary positions."""
    sizes: dict[str, int] = {t.name: prod(t.dims) for t in proto.graph.initializer}
    n_params, packed = 0, set[str]()
    stored: dict[str, str] = {}
    """The tensors in the file that values are after a conversion."""
    for node in nodes_of(proto.graph):
        if node.op_type in ("Cast", "Mul") and node.input and node.output:
            stored[node.output[0]] = stored.get(node.input[0], node.input[0])
        place = _WEIGHT_PLACES.get(node.op_type)
        if place is None:
            continue
        if node.input[place] not in packed:
            n_params += _n_packed(node, sizes)
        packed.update(stored.get(name, name) for name in node.input)
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
