"""Types and shapes of a graph's inputs and outputs."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, ValueInfoProto

_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}


def dtype_of(value: ValueInfoProto) -> str:
    """numpy's name of the type, or bfloat16; "unknown" for anything else."""
    return _DTYPES.get(value.type.tensor_type.elem_type, "unknown")


def shape_of(value: ValueInfoProto) -> tuple[int | None, ...]:
    """The sizes; None where one is not fixed."""
    return tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
        for size in value.type.tensor_type.shape.dim
    )


def true_inputs(proto: ModelProto) -> dict[str, ValueInfoProto]:
    """The inputs to be fed: initializers may also be listed as inputs."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return {value.name: value for value in proto.graph.input if value.name not in constants}
