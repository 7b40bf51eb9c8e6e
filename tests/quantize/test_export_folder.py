"""What the exporter reads, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from spillover.edge_server import cli
from spillover.quantize import new_file
from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export import export as exporting
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.from_hf.safetensors_file import SafetensorsFile
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.plan import mixed
from tests import tiny_gguf, tiny_models
from tests.onnx_sessions import Logits, ragged_logits
from tests.tiny_models import CONFIGS

FP32 = ExportOptions(weights="fp32")


def silent(n_done: int, n_all: int) -> None:
    pass


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("files", [1, 3])
def test_every_kind_of_safetensors_gives_the_same_logits(
    dtype: str, files: int, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"], dtype=dtype, files=files)
    export(tmp_path / "hf", tmp_path / "out", FP32, silent)
    found = ragged_logits(tmp_path / "out" / "model.onnx", tiny_models.IDS, [40])
    np.testing.assert_allclose(found, hf_logits["llama"], atol=2e-4)


@pytest.mark.parametrize("weights", ["int4", "int8", "fp32", "fp16"])
def test_weights_in_a_second_file_are_the_same_weights(weights: Any, tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["qwen2"])
    logits = []
    for external in (False, True):
        options = ExportOptions(weights=weights, external_data=external)
        exported = export(tmp_path / "hf", tmp_path / f"out-{external}", options, silent)
        files = {path.name: path.stat().st_size for path in exported.folder.iterdir()}
        assert ("model.onnx.data" in files) == external
        assert exported.size_bytes == sum(files.values())
        logits.append(ragged_logits(exported.folder / "model.onnx", tiny_models.IDS, [40]))
    np.testing.assert_array_equal(logits[0], logits[1])


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[]", '{"a":' * 100_000, '"cut'])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    (tmp_path / "hf" / name).write_text(content)
    with pytest.raises(ExportError, match=name):
        export(tmp_path / "hf", tmp_path / "out", ExportOptions(interface="genai"), silent)


def test_the_folder_has_what_a_loader_needs(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "hf" / "chat_template.json").write_text('{"chat_template": "older"}')
    exported = export(tmp_path / "hf", tmp_path / "a" / "out", FP32, silent)
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {
        "model.onnx",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
    }
    assert exported.folder.stat().st_mode & 0o777 == 0o755


def test_a_model_with_a_short_context_is_compared_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No token was left of the text, and the command ended with a traceback."""
    tiny_models.write_byte_level(tmp_path / "hf", CONFIGS["llama"])
    asked = ["export", "onnx", str(tmp_path / "hf"), str(tmp_path / "out"), "--weights", "int8"]
    assert cli.run([*asked, "--n-ctx", "4"]) == 0
    assert "nats on average" in capfd.readouterr().out


def test_weights_that_no_single_file_holds_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_MOST_GRAPH_BYTES", 10_000)
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    with pytest.raises(ExportError, match="less than 2 GiB: leave out --one-file"):
        export(tmp_path / "hf", tmp_path / "out", ExportOptions(external_data=False), silent)
    export(tmp_path / "hf", tmp_path / "out", ExportOptions(), silent)


def test_only_the_text_part_of_a_model_that_sees_images_is_exported(
    tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    config = CONFIGS["gemma3"]
    tiny_models.write(tmp_path / "hf", config)
    tensors = {f"language_model.{n}": values for n, values in tiny_models.weights(config).items()}
    tensors["vision_tower.patches.weight"] = np.zeros((4, 4), np.float32)
    tiny_models.write_safetensors(tmp_path / "hf" / "model.safetensors", tensors)
    whole = {"model_type": "gemma3", "text_config": config, "vision_config": {"hidden_size": 4}}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(whole))
    exported = export(tmp_path / "hf", tmp_path / "out", FP32, silent)
    assert "not see images" in exported.notes[0]
    found = ragged_logits(tmp_path / "out" / "model.onnx", tiny_models.IDS, [40])
    np.testing.assert_allclose(found, hf_logits["gemma3"], atol=2e-4)


def test_an_export_says_that_its_rotary_positions_are_for_long_contexts(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["phi3-long"])
    exported = export(tmp_path / "hf", tmp_path / "out", FP32, silent)
    assert any("more than 32 tokens" in note for note in exported.notes)


def test_a_model_beyond_fp16_is_not_exported_in_fp16(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["gemma3"])
    with pytest.raises(ExportError, match="beyond what fp16 can hold"):
        export(tmp_path / "hf", tmp_path / "out", ExportOptions(weights="fp16"), silent)


def test_a_shorter_context_makes_a_shorter_table(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    options = ExportOptions(n_ctx=64)
    assert export(tmp_path / "hf", tmp_path / "out", options, silent).n_ctx == 64
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    tables = [tensor.dims for tensor in graph.initializer if tensor.name == "rotary.cos"]
    assert [list(dims) for dims in tables] == [[64, 8]]


def test_a_very_long_context_is_cut_and_reported(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", {**CONFIGS["llama"], "max_position_embeddings": 131_072})
    exported = export(tmp_path / "hf", tmp_path / "out", ExportOptions(), silent)
    assert exported.n_ctx == 32_768
    assert "32768 of the model's 131072" in exported.notes[0]


def test_genai_gets_its_settings(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["qwen3"])
    options = ExportOptions(interface="genai")
    export(tmp_path / "hf", tmp_path / "out", options, silent)
    model = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    assert (model["type"], model["context_length"]) == ("qwen3", 128)
    assert (model["bos_token_id"], model["eos_token_id"]) == (0, 1)
    assert model["decoder"]["head_size"] == 32


def test_genai_is_not_told_an_end_that_the_model_lacks(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", changed(eos_token_id=None))
    with pytest.raises(ExportError, match="eos_token_id"):
        export(tmp_path / "hf", tmp_path / "out", ExportOptions(interface="genai"), silent)
    assert not (tmp_path / "out").exists()


def changed(**values: Any) -> dict[str, Any]:
    return {**CONFIGS["llama"], **values}


def gemma(**values: Any) -> dict[str, Any]:
    return {**CONFIGS["gemma3"], **values}


_LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 7 + [-1.0],
    "long_factor": [1.0] * 8,
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(model_type="mamba"), "'mamba' is not supported"),
        (changed(hidden_act="gelu"), "'gelu' is not supported"),
        (changed(quantization_config={"bits": 4}), "already quantized"),
        (changed(rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'"),
        (changed(rope_scaling={"rope_type": "longrope", "factor": 2.0}), "short_factor"),
        (changed(rope_scaling={"rope_type": "llama3", "factor": 2.0}), "low_freq_factor"),
        (changed(partial_rotary_factor=0.5), "8 of the 16 values"),
        (changed(head_dim=24), "24 values"),
        (changed(partial_rotary_factor=2), "share of 2.0"),
        (changed(rope_scaling=_LONGROPE), "8 positive divisors"),
        (changed(rope_scaling={"rope_type": "linear", "factor": 0}), "no valid rotary scaling"),
        (changed(rope_theta=-1.0), "no valid rotary scaling"),
        (gemma(hidden_activation="gelu"), "'gelu' is not supported"),
        (gemma(use_bidirectional_attention=True), "embeddings, not text"),
        (gemma(attn_logit_softcapping=50.0), "attn_logit_softcapping"),
        (changed(num_key_value_heads=3), "4 heads of 16 values for 3"),
        (changed(num_hidden_layers=2), "tensors that a plain llama lacks"),
        (changed(num_hidden_layers=4), "lacks layers.3"),
        (changed(vocab_size=95), "has the shape"),
        (changed(hidden_size=-1), "hidden_size"),
        (changed(num_hidden_layers=10**9), "num_hidden_layers"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_and_nothing_is_left(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=message):
        export(tmp_path / "hf", tmp_path / "out", FP32, silent)
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


def test_a_gguf_file_with_senseless_rotary_numbers_is_refused(tmp_path: Path) -> None:
    config = {**CONFIGS["qwen2-yarn"], "rope_theta": 1.0}
    path = tiny_gguf.write_model(tmp_path / "m.gguf", config)
    with pytest.raises(ExportError, match="rotary scaling"):
        export(path, tmp_path / "out", FP32, silent)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    tensors = tiny_models.weights(CONFIGS["llama"])
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    tiny_models.write_safetensors(tmp_path / "hf" / "model.safetensors", tensors)
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj.* not numbers"):
        export(tmp_path / "hf", tmp_path / "out", ExportOptions(), silent)


def test_an_existing_folder_is_never_written_into(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    (tmp_path / "out").mkdir()
    with pytest.raises(QuantizeError, match="exists"):
        export(tmp_path / "hf", tmp_path / "out", FP32, silent)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stopped_export_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(onnx, "save_model", stop)
    with pytest.raises((QuantizeError, KeyboardInterrupt)):
        export(tmp_path / "hf", tmp_path / "out", FP32, silent)
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "ends before"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', "ends before"),
        (b'{"a":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}}', "negative"),
        (b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}', "ends"),
        (b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', "F8_E4M3"),
    ],
)
def test_a_false_safetensors_header_is_found_out(
    header: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ExportError, match=message):
        SafetensorsFile(path)


@pytest.mark.parametrize("content", [b"", b"abc", (1 << 62).to_bytes(8, "little") + b"{}"])
def test_files_that_are_not_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match="not a safetensors file"):
        SafetensorsFile(tmp_path / "m.safetensors")


def test_a_pointer_in_place_of_the_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(ExportError, match="git lfs pull"):
        SafetensorsFile(tmp_path / "m.safetensors")


def test_an_index_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"], files=2)
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match="outside its folder"):
        export(tmp_path / "hf", tmp_path / "out", FP32, silent)


@pytest.mark.parametrize("more", [(), ("--target-bpw", "6")])
def test_space_on_the_disk_is_looked_for_before_anything_is_measured(
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    monkeypatch.setattr(new_file, "_free_bytes", lambda target: 64 << 20)
    monkeypatch.setattr(mixed, "sensitivities", lambda *_: pytest.fail("it was measured"))
    source, target = str(tmp_path / "hf"), tmp_path / "out"
    assert cli.run(["export", "onnx", source, str(target), *more]) == 1
    assert f"{target} takes" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


@pytest.mark.parametrize("n_bytes", [0, 3, 40, 4_000, 60_000])
def test_a_cut_gguf_file_is_refused(n_bytes: int, tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIGS["llama"])
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ExportError):
        export(path, tmp_path / "out", FP32, silent)


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_models.write_byte_level(tmp_path / "hf", CONFIGS["smollm"])
    arguments = ["export", "onnx", str(tmp_path / "hf"), str(tmp_path / "out")]
    arguments += ["--weights", "int8"]
    assert cli.run([*arguments, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["folder"], written["n_ctx"]) == (str(tmp_path / "out"), 128)
    assert 0 < written["verdict"]["divergence"] < 1
    assert cli.run(arguments) == 1
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["nothing-there", "file.bin", "empty"])
def test_the_command_says_what_is_wrong_with_the_source(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.bin").touch()
    (tmp_path / "empty").mkdir()
    assert cli.run(["export", "onnx", str(tmp_path / source), str(tmp_path / "out")]) == 1
    assert str(tmp_path / source) in capsys.readouterr().err
