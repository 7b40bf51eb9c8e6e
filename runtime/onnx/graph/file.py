"""Reads an ONNX graph and checks its claims before any native code sees it.

A model is untrusted: its graph may name any file of the device as its weights, and claim any size.
Only the graph is read here; weights in other files are not loaded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from msgspec import Struct
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from spillover.runtime.errors import ModelError

MAX_GRAPH_BYTES = (2 << 30) - 1
"""No protobuf message is larger."""
MAX_NODES = 500_000
MAX_VALUES = 1 << 40
"""Of one tensor."""

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16,
    TensorProto.INT16: 16, TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64, TensorProto.UINT32: 32,
    TensorProto.UINT64: 64, TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8, TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.INT64: "int64_data",
    TensorProto.DOUBLE: "double_data", TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}  # fmt: skip
"""The field that holds values that are not raw; int32_data for all other types."""
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the model itself"),
    (b"<", "a web page: the download went wrong"),
    (b"GGUF", "a GGUF file: give it a name that ends in .gguf"),
    (b"ORTM", "in the ORT format: get the model's .onnx file"),
)


class GraphFile(Struct, frozen=True, kw_only=True):
    """A graph whose claims about its files are true."""

    path: Path
    proto: ModelProto
    data_files: tuple[Path, ...]
    """The other files that hold its weights, in the same folder."""
    size_bytes: int
    """Of the graph and of its weights."""


def read_graph(path: Path) -> GraphFile:
    """The checked graph of an .onnx file. Raises ModelError."""
    proto = _parse(path)
    tensors = list(_tensors(proto))
    data_files: dict[str, int] = {}
    for tensor in tensors:
        _check_size(path, tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_place(path, tensor, data_files)
    return GraphFile(
        path=path,
        proto=proto,
        data_files=tuple(path.parent / name for name in sorted(data_files)),
        size_bytes=path.stat().st_size + sum(data_files.values()),
    )


def _parse(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if size > MAX_GRAPH_BYTES:
            raise ModelError(f"{path} has {size} bytes; an ONNX graph has at most 2 GiB")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    for beginning, what in _BEGINNINGS:
        if content.lstrip()[: len(beginning)] == beginning:
            raise ModelError(f"{path} is {what}")
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX graph, or is damaged or incomplete: download it again"
        ) from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path} contains no graph: download it again")
    if not _has_texts_alone(proto):
        raise ModelError(f"{path} has names that are not text: it is damaged; download it again")
    return proto


def _has_texts_alone(proto: ModelProto) -> bool:
    """Whether every name is text. For one that is not, protobuf returns bytes or raises an
    error."""
    try:
        return all(isinstance(text, str) for text in _texts(proto))
    except UnicodeDecodeError:
        return False


def _texts(proto: ModelProto) -> Generator[object]:
    yield from (opset.domain for opset in proto.opset_import)
    yield from (function.domain for function in proto.functions)
    for value in (*proto.graph.input, *proto.graph.output):
        yield value.name
        yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
    for tensor in _tensors(proto):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for node in nodes_of(proto.graph):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def nodes_of(graph: GraphProto) -> Generator[NodeProto]:
    """All nodes, including those of inner graphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from nodes_of(inner)


def _graphs(attribute: AttributeProto) -> Generator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensors(proto: ModelProto) -> Generator[TensorProto]:
    """Every tensor, wherever it hides."""
    yield from _tensors_of(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _tensors_of_node(node)
    for training in proto.training_info:
        yield from _tensors_of(training.initialization)
        yield from _tensors_of(training.algorithm)


def _tensors_of(graph: GraphProto) -> Generator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: NodeProto) -> Generator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield sparse.values
            yield sparse.indices
        for inner in _graphs(attribute):
            yield from _tensors_of(inner)


def _n_bytes(path: Path, tensor: TensorProto) -> int | None:
    """Bytes that the shape needs; None for types without a fixed size."""
    n_values = 1
    for size in tensor.dims:
        if size < 0:
            raise ModelError(f"{path}: {tensor.name[:80]!r} has a negative size")
        n_values *= size
        if n_values > MAX_VALUES:
            raise ModelError(f"{path}: {tensor.name[:80]!r} claims more values than are possible")
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else -(-n_values * bits // 8)


def _check_size(path: Path, tensor: TensorProto) -> None:
    """Check that the graph holds as many values as the shape says."""
    wanted = _n_bytes(path, tensor)
    if tensor.data_location == TensorProto.EXTERNAL or wanted is None:
        return
    found = len(tensor.raw_data)
    if not tensor.HasField("raw_data"):
        field = _FIELDS.get(tensor.data_type, "int32_data")
        # 4-bit values are stored in pairs.
        found = len(getattr(tensor, field)) * max(_BITS[tensor.data_type] // 8, 1)
    if found != wanted:
        raise ModelError(
            f"{path}: {tensor.name[:80]!r} has {found} bytes instead of {wanted}: it is damaged"
        )


def _check_place(path: Path, tensor: TensorProto, data_files: dict[str, int]) -> None:
    """Check that the tensor's bytes are in a file in the model's own folder."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    name = place.get("location", "")
    if name not in data_files:
        data_files[name] = _size_of_data_file(path, name)
    try:
        offset, length = int(place.get("offset", 0)), int(place.get("length", 0))
    except ValueError:
        offset = length = -1
    wanted = _n_bytes(path, tensor)
    end = offset + (length or wanted or 0)
    if offset < 0 or length < 0 or (length and wanted is not None and length != wanted):
        raise ModelError(
            f"{path}: the position of {tensor.name[:80]!r} is invalid: the file is damaged"
        )
    if end > data_files[name]:
        raise ModelError(
            f"{path.parent / name} ends before the tensor {tensor.name[:80]!r} does: it is "
            "damaged or incomplete; download it again"
        )


def _size_of_data_file(path: Path, name: str) -> int:
    """Refuse any path that could lead out of the folder, or expose a file that is not the
    model's."""
    parts = Path(name).parts
    if not name or "\0" in name or os.path.isabs(name) or ".." in parts or "\\" in name:
        raise ModelError(
            f"{path} refers to weights in {name[:200]!r}, not in its folder: do not use this model"
        )
    target = path.parent
    for part in parts:
        target = target / part
        try:
            info = target.lstat()
        except OSError as error:
            raise ModelError(
                f"{path} refers to weights in {name[:200]!r}, which cannot be read "
                f"({error.strerror}): download that file too and put it beside the graph"
            ) from error
        if stat.S_ISLNK(info.st_mode):
            raise ModelError(
                f"{target} is a link: replace it with the file itself (a download to its own "
                "folder has no links)"
            )
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        raise ModelError(f"{target} must be a plain file without other hard links: copy it")
    _refuse_pointer(target, info.st_size)
    return info.st_size


def _refuse_pointer(target: Path, size: int) -> None:
    if size < 1024 and target.read_bytes().startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{target} is a Git LFS pointer: run `git lfs pull` to get the weights themselves"
        )
