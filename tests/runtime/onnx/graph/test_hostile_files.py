"""Files that are damaged, or want what is not theirs, are refused before anything is loaded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.graph.file import read_graph
from spillover.runtime.onnx.graph.prepare import prepare
from tests.runtime.onnx.graph import tiny_graphs as tiny

DATA = bytes(range(64)) * 4


def external(location: str, *, dims: list[int] | None = None, **place: int) -> TensorProto:
    """64 floats in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims or [64])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **place}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return tensor


def with_tensor(tensor: TensorProto) -> ModelProto:
    proto = tiny.plain()
    proto.graph.initializer.append(tensor)
    return proto


def read(proto: ModelProto, folder: Path) -> object:
    return read_graph(tiny.saved(proto, folder))


def test_weights_beside_the_graph_are_fine(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("w.data", "sub/w.data"):
        (tmp_path / name).write_bytes(DATA)
        path = tiny.saved(with_tensor(external(name, offset=0, length=256)), tmp_path)
        file = read_graph(path)
        assert file.data_files == (tmp_path / name,)
        assert file.size_bytes == path.stat().st_size + 256


@pytest.mark.parametrize(
    "location",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "sub/../../secret",
        "..",
        "",
        "a\\..\\b",
        "C:\\secret",
        "w\0.data",
    ],
)
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(DATA)
    with pytest.raises(ModelError, match="not in its folder"):
        read(with_tensor(external(location)), tmp_path / "model")


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_link_that_leads_out_is_refused(how: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "w.data").write_bytes(DATA)
    if how == "file":
        (folder / "w.data").symlink_to(elsewhere / "w.data")
    else:
        (folder / "sub").symlink_to(elsewhere)
    with pytest.raises(ModelError, match="is a link"):
        read(with_tensor(external("w.data" if how == "file" else "sub/w.data")), folder)


def test_another_name_of_a_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(DATA)
    os.link(tmp_path / "secret", folder / "w.data")
    with pytest.raises(ModelError, match="hard links"):
        read(with_tensor(external("w.data")), folder)


def test_paths_that_are_not_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.data")
    with pytest.raises(ModelError, match="plain file"):
        read(with_tensor(external("w.data")), tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"w\.data.*beside the graph"):
        read(with_tensor(external("w.data")), tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        {"offset": -1, "length": 256},
        {"offset": 0, "length": -256},
        {"offset": 0, "length": 255},
        {"offset": 4, "length": 256},
        {"offset": 1 << 62, "length": 256},
        {"offset": 257},
        {"offset": 0, "length": 256, "dims": [1 << 31, 1 << 31, 1 << 31]},
        {"dims": [-1]},
        {"dims": [-2, -32]},
        {"dims": [65]},
    ],
)
def test_places_and_sizes_that_cannot_be_are_refused(place: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(DATA)
    with pytest.raises(ModelError):
        read(with_tensor(external("w.data", **place)), tmp_path)  # type: ignore[arg-type]  # dims


def test_an_offset_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(DATA)
    with pytest.raises(ModelError, match="is invalid"):
        read(with_tensor(external("w.data", offset="0x10")), tmp_path)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("where", ["attribute", "branch", "sparse", "function"])
def test_weights_elsewhere_are_found_wherever_they_hide(where: str, tmp_path: Path) -> None:
    tensor, proto = external("../secret"), tiny.plain()
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    if where == "attribute":
        proto.graph.node.append(constant)
    elif where == "branch":
        output = helper.make_tensor_value_info("c", tiny.FLOAT, None)
        inner = helper.make_graph([constant], "inner", [], [output])
        outer = helper.make_graph(
            [helper.make_node("If", ["air"], ["c"], then_branch=inner, else_branch=inner)],
            "outer",
            [],
            [output],
        )
        branch = helper.make_node("If", ["air"], ["d"], then_branch=outer, else_branch=outer)
        proto.graph.node.append(branch)
    elif where == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, indices=tensor, dims=[64])
        proto.graph.sparse_initializer.append(sparse)
    else:
        opsets = [helper.make_opsetid("", 21)]
        proto.functions.append(helper.make_function("own", "F", [], ["c"], [constant], opsets))
    with pytest.raises(ModelError, match="not in its folder"):
        read(proto, tmp_path)


def test_fewer_bytes_than_the_shape_says_are_refused(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(64, np.float32), "w")
    tensor.dims[0] = 1 << 20
    with pytest.raises(ModelError, match="damaged"):
        read(with_tensor(tensor), tmp_path)


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("w", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.BOOL, [3], [1, 0, 1]),
        helper.make_tensor("w", TensorProto.DOUBLE, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.INT64, [], [1]),
        helper.make_tensor("w", TensorProto.FLOAT, [0], []),
    ],
)
def test_values_that_are_not_raw_are_counted_too(tensor: TensorProto, tmp_path: Path) -> None:
    read(with_tensor(tensor), tmp_path)
    tensor.dims.append(1 << 20)
    if tensor.dims[0] != 0:
        with pytest.raises(ModelError, match="damaged"):
            read(with_tensor(tensor), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no graph"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x08\x00\x00\x00ORTM", "not an ONNX graph|no graph|ORT format"),
        (b"\xff" * 100, "not an ONNX graph"),
        (b"{}", "not an ONNX graph"),
    ],
)
def test_files_that_are_not_graphs_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_graph(tmp_path / "model.onnx")


def test_weights_that_are_a_pointer_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" + bytes(300))
    with pytest.raises(ModelError, match="git lfs pull"):
        read(with_tensor(external("w.data")), tmp_path)


def test_a_missing_graph_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(ModelError, match="cannot be read"):
            read_graph(path)


def test_a_graph_of_more_than_two_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ModelError, match="at most 2 GiB"):
        read_graph(path)


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    content = b""
    for _ in range(200):
        # A graph (field 6 of an attribute) in an attribute (5 of a node) of a node (1 of a graph).
        for field in (6, 5, 1):
            content = field_of_message(field, content)
    (tmp_path / "model.onnx").write_bytes(field_of_message(7, content))
    with pytest.raises(ModelError, match="not an ONNX graph"):
        read_graph(tmp_path / "model.onnx")


def field_of_message(number: int, content: bytes) -> bytes:
    length, encoded = len(content), b""
    while length > 127:
        encoded += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + encoded + bytes([length]) + content


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.with_gqa(), tmp_path_factory.mktemp("whole"))


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_graph_is_an_error_or_a_graph_but_never_a_crash(
    data: st.DataObject, whole: Path
) -> None:
    content = bytearray(whole.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = whole.with_name("damaged.onnx")
    path.write_bytes(content)
    try:
        prepare(path, runtime_version=(1, 22))
    except ModelError:
        pass
    finally:
        shutil.rmtree(path, ignore_errors=True)
