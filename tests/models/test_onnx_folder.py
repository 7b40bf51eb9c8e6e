"""Which file of a folder is the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spillover.models import catalogue, onnx_folder
from spillover.models.entry import CatalogueError
from spillover.models.errors import ModelFileError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "graph"),
    [
        (["model.onnx"], "model.onnx"),
        (["decoder_model.onnx", "decoder_with_past_model.onnx"], "decoder_with_past_model.onnx"),
        (["decoder_model_merged.onnx", "decoder_model.onnx"], "decoder_model_merged.onnx"),
        (["onnx/model.onnx", "onnx/model_q4.onnx", "onnx/model_fp16.onnx"], "onnx/model_q4.onnx"),
        (["onnx/model.onnx", "onnx/model_fp16.onnx"], "onnx/model.onnx"),
        (["onnx/decoder_model_merged_quantized.onnx"], "onnx/decoder_model_merged_quantized.onnx"),
        (["phi.onnx"], "phi.onnx"),
    ],
)
def test_the_graph_is_found_by_the_names_exporters_give(
    tmp_path: Path, names: list[str], graph: str
) -> None:
    touch(tmp_path, "tokenizer.json", *names)
    files = onnx_folder.find(tmp_path)
    assert files.graph == tmp_path / graph
    assert files.root == tmp_path


def test_genai_names_its_graph(tmp_path: Path) -> None:
    touch(tmp_path, "model.onnx", "int4.onnx")
    config = '{"model": {"decoder": {"filename": "int4.onnx"}}}'
    (tmp_path / "genai_config.json").write_text(config)
    assert onnx_folder.find(tmp_path).graph.name == "int4.onnx"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.onnx"])
def test_genai_may_not_name_a_graph_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "genai_config.json").write_text(
        f'{{"model":{{"decoder":{{"filename":"{name}"}}}}}}'
    )
    with pytest.raises(ModelFileError, match="not in its folder"):
        onnx_folder.find(tmp_path)


@pytest.mark.parametrize("content", ["<html>", "[" * 100_000, '{"model":' + "[" * 100_000])
def test_settings_that_are_no_json_are_an_error_that_names_them(
    tmp_path: Path, content: str
) -> None:
    touch(tmp_path, "model.onnx")
    (tmp_path / "genai_config.json").write_text(content)
    with pytest.raises(CatalogueError, match=r"genai_config\.json"):
        catalogue.find(str(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_file_beside_the_graph_that_is_a_pointer_is_named(tmp_path: Path, name: str) -> None:
    """A template that was one used to be the prompt of every conversation."""
    touch(tmp_path, "model.onnx")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(ModelFileError, match="git lfs pull"):
        onnx_folder.find(tmp_path).read(name)


def test_a_named_graph_is_taken_and_its_tokenizer_found_above_it(tmp_path: Path) -> None:
    touch(tmp_path, "tokenizer.json", "onnx/model_q4.onnx", "onnx/model_int8.onnx")
    files = onnx_folder.find(tmp_path / "onnx" / "model_int8.onnx")
    assert files.root == tmp_path
    assert files.name == f"{tmp_path.name}-int8"


def test_the_catalogue_takes_a_folder_and_names_it(tmp_path: Path) -> None:
    touch(tmp_path / "tiny", "model.onnx", "tokenizer.json")
    entry = catalogue.find(str(tmp_path / "tiny"))
    assert (entry.name, entry.path) == ("tiny", tmp_path / "tiny")
    assert catalogue.find(str(tmp_path / "tiny" / "model.onnx")).name == "tiny"


def test_several_unranked_graphs_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.onnx", "b.onnx")
    with pytest.raises(ModelFileError, match=r"a\.onnx, b\.onnx"):
        onnx_folder.find(tmp_path)


def test_a_missing_graph_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="there is no model"):
        catalogue.find(str(tmp_path / "model.onnx"))


def test_the_size_is_that_of_the_graph_and_its_weights(tmp_path: Path) -> None:
    for name in ("model_q4.onnx", "model_q4.onnx_data", "model_q4.onnx_data_1", "model.onnx"):
        (tmp_path / name).write_bytes(bytes(100))
    assert catalogue.find(str(tmp_path)).n_bytes_on_disk == 300


def write_package(folder: Path, variants: dict[str, dict[str, str]], tokenizer: str = "") -> None:
    manifest = {"schema_version": "1.0", "components": {"model": {"variants": variants}}}
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name, variant in variants.items():
        place = folder / variant.get("variant_directory", name)
        touch(place, "decoder.onnx")
        config = {"model": {"decoder": {"filename": "decoder.onnx"}, "tokenizer_dir": tokenizer}}
        (place / "genai_config.json").write_text(json.dumps(config))


def test_of_a_package_the_build_for_the_cpu_is_taken(tmp_path: Path) -> None:
    variants = {
        "npu": {"ep": "OpenVINOExecutionProvider"},
        "cpu-1": {"ep": "CPUExecutionProvider", "variant_directory": "builds"},
    }
    write_package(tmp_path / "qwen", variants, "sha256:0123456789ab/hf")
    shared = tmp_path / "qwen" / "shared_assets" / "sha256-0123456789ab" / "hf"
    touch(shared, "tokenizer.json")
    files = onnx_folder.find(tmp_path / "qwen")
    assert files.graph == tmp_path / "qwen" / "builds" / "decoder.onnx"
    assert files.root == shared
    assert files.read("genai_config.json") is not None
    assert catalogue.find(str(tmp_path / "qwen")).name.startswith("qwen")


def test_a_package_without_a_build_for_the_cpu_says_what_it_has(tmp_path: Path) -> None:
    write_package(tmp_path / "qwen", {"a": {"ep": "QNNExecutionProvider"}})
    with pytest.raises(CatalogueError, match="no build for the CPU, only for QNN"):
        catalogue.find(str(tmp_path / "qwen"))


@pytest.mark.parametrize("name", ["../..", "/etc", "sha256:0123456789ab/../../.."])
def test_a_package_may_not_name_a_folder_elsewhere(tmp_path: Path, name: str) -> None:
    write_package(tmp_path / "qwen", {"cpu": {"ep": "CPUExecutionProvider"}}, name)
    with pytest.raises(ModelFileError, match="not in the package"):
        onnx_folder.find(tmp_path / "qwen")
    (tmp_path / "qwen" / "manifest.json").unlink()
    variants = {"cpu": {"variant_directory": name}}
    (tmp_path / "qwen" / "manifest.json").write_text(
        json.dumps({"components": {"model": {"variants": variants}}})
    )
    with pytest.raises(ModelFileError):
        onnx_folder.find(tmp_path / "qwen")
