"""A Hugging Face folder becomes a GGUF file with which llama.cpp computes the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from spillover.edge_server import cli
from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import read_header
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf_export import export as exporting
from spillover.quantize.gguf_export.export import (
    CheckOrder,
    Exported,
    GgufType,
    check_tokens,
    export,
)
from spillover.quantize.gguf_export.vocabulary import describe
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export as export_onnx
from spillover.quantize.onnx_export.from_gguf.source import VOCABULARY_KEYS, GgufSource
from spillover.quantize.onnx_export.from_gguf.splits import SPLITS
from spillover.quantize.onnx_export.from_gguf.tokenizer import build_tokenizer
from spillover.quantize.onnx_export.from_gguf.vocabulary import read_vocabulary
from spillover.quantize.onnx_export.options import ExportOptions
from tests import tiny_gguf, tiny_models
from tests.hf_reference import hf_logits
from tests.llama_logits import GELU_ATOL, as_llama_cpp
from tests.many_scripts import MANY_SCRIPTS, PIECES
from tests.onnx_sessions import ragged_logits
from tests.storyteller import STORYTELLER

REFUSED = {
    "smollm3-chosen": "rotary positions",
    "gemma2-scaled": "query_pre_attn_scalar",
    "gemma3-scaled": "query_pre_attn_scalar",
}
WINDOWED = {"mistral", "qwen2-windows", "phi3"}
"""llama.cpp ignores their windows."""
LIKE_HUGGING_FACES = sorted(tiny_models.CONFIGS.keys() - REFUSED.keys() - WINDOWED)


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process that compares the tokenizers."""
    monkeypatch.setattr(exporting, "has_llama", lambda: False)


def exported(name: str, folder: Path, **how: Any) -> Exported:
    source = tiny_models.write_byte_level(folder / "hf", tiny_models.CONFIGS[name], **how)
    return export(source, folder / "m.gguf", "auto", silent)


@pytest.mark.parametrize("name", LIKE_HUGGING_FACES)
def test_llama_cpp_computes_the_original_models_logits(
    name: str, tmp_path: Path, unchecked: None
) -> None:
    made = exported(name, tmp_path)
    assert made.notes == ()
    atol = GELU_ATOL if name.startswith("gemma") else 5e-4
    np.testing.assert_allclose(as_llama_cpp(made.path), hf_logits()[name], atol=atol)


@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_what_llama_cpp_ignores_is_said(name: str, tmp_path: Path, unchecked: None) -> None:
    made = exported(name, tmp_path)
    assert "ignores the attention window" in made.notes[0]
    other = tiny_gguf.write_model(tmp_path / "other.gguf", tiny_models.CONFIGS[name])
    np.testing.assert_allclose(as_llama_cpp(made.path), as_llama_cpp(other), atol=1e-5)


def test_a_window_as_long_as_the_context_is_nothing_to_tell(
    tmp_path: Path, unchecked: None
) -> None:
    """Phi-3 and Phi-4 with contexts of 128 thousand tokens have windows of twice as many."""
    config = {**tiny_models.CONFIGS["phi3"], "sliding_window": 128}
    folder = tiny_models.write_byte_level(tmp_path / "hf", config)
    assert export(folder, tmp_path / "m.gguf", "auto", silent).notes == ()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_no_gguf_file_can_say_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=REFUSED[name]):
        exported(name, tmp_path)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("matrices", [("qkv_proj",), ("qkv_proj", "gate_up_proj")])
@pytest.mark.parametrize("name", ["llama-biased", "qwen2", "smollm3"])
def test_fused_matrices_of_any_family_give_the_same_logits(
    name: str, matrices: tuple[str, ...], tmp_path: Path, unchecked: None
) -> None:
    config = tiny_models.CONFIGS[name]
    folder = tiny_models.write_byte_level(tmp_path / "hf", config)
    fused = tiny_models.fused(tiny_models.weights(config), *matrices)
    tiny_models.write_safetensors(folder / "model.safetensors", fused)
    made = export(folder, tmp_path / "m.gguf", "auto", silent)
    np.testing.assert_allclose(as_llama_cpp(made.path), hf_logits()[name], atol=5e-4)


LLAMA3 = tiny_models.CONFIGS["llama-3.1"]["rope_scaling"]
LONGROPE = {
    "original_max_position_embeddings": 32,
    "rope_scaling": tiny_models.CONFIGS["phi3-long"]["rope_scaling"],
}


@pytest.mark.parametrize(
    ("name", "more", "what"),
    [
        ("qwen2", {"rope_scaling": LLAMA3}, "rope_freqs"),
        ("smollm3", {"rope_scaling": LLAMA3}, "rope_freqs"),
        ("gemma2", {"rope_scaling": LLAMA3}, "rope_freqs"),
        ("phi3", {"rope_scaling": LLAMA3}, "rope_freqs"),
        ("qwen3", {"rope_scaling": LLAMA3}, "rope_freqs"),
        ("gemma3", {"rope_scaling": LLAMA3}, "rope_freqs"),
        ("qwen2", LONGROPE, "rope_factors"),
        ("qwen3", {"attention_bias": True}, "attn_output.bias"),
        ("qwen2", {"head_dim": 32}, "4 heads of 32"),
        ("smollm3", {"partial_rotary_factor": 0.5, "head_dim": 32}, "whole heads"),
    ],
)
def test_what_llama_cpp_would_not_load_is_refused_before_any_work(
    name: str, more: dict[str, Any], what: str, tmp_path: Path
) -> None:
    folder = tiny_models.write_byte_level(tmp_path / "hf", {**tiny_models.CONFIGS[name], **more})
    with pytest.raises(ExportError, match=rf"{what}.*export it to ONNX"):
        export(folder, tmp_path / "m.gguf", "auto", silent)
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


@pytest.mark.parametrize(
    ("name", "more"), [("granite", {"rope_scaling": LLAMA3}), ("llama", LONGROPE)]
)
def test_rotary_positions_that_llama_cpp_scales_for_few_families_are_right_there(
    name: str, more: dict[str, Any], tmp_path: Path, unchecked: None
) -> None:
    folder = tiny_models.write_byte_level(tmp_path / "hf", {**tiny_models.CONFIGS[name], **more})
    made = export(folder, tmp_path / "m.gguf", "auto", silent)
    export_onnx(folder, tmp_path / "onnx", ExportOptions(weights="fp32"), lambda n, n_all: None)
    wanted = ragged_logits(tmp_path / "onnx" / "model.onnx", tiny_models.IDS, [48])
    np.testing.assert_allclose(as_llama_cpp(made.path), wanted, atol=5e-4)


def test_a_model_whose_matrices_llama_cpp_wants_fused_is_refused(tmp_path: Path) -> None:
    config = tiny_models.CONFIGS["phi3"]
    folder = tiny_models.write_byte_level(tmp_path / "hf", config)
    apart = tiny_models.weights({**config, "model_type": "llama"})
    tiny_models.write_safetensors(folder / "model.safetensors", apart)
    with pytest.raises(ExportError, match=r"no name for layers.0.mlp.up_proj.weight"):
        export(folder, tmp_path / "m.gguf", "auto", silent)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_weights_stay_as_they_are_stored(dtype: str, tmp_path: Path, unchecked: None) -> None:
    made = exported("smollm", tmp_path, dtype=dtype, files=2)
    kinds = {GGML_TYPES[t.type_id].name for t in read_header(made.path).tensors if t.shape[1:]}
    assert kinds == {dtype}
    source = GgufSource(made.path)
    for name, values in tiny_models.weights(tiny_models.CONFIGS["smollm"]).items():
        np.testing.assert_array_equal(source.values(name.removeprefix("model.")), values)


def test_weights_can_have_eight_bits(tmp_path: Path, unchecked: None) -> None:
    folder = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    made = export(folder, tmp_path / "m.gguf", "Q8_0", silent)
    found = as_llama_cpp(made.path)
    assert np.corrcoef(found.ravel(), hf_logits()["llama"].ravel())[0, 1] > 0.99


def test_rows_that_no_block_divides_are_told(tmp_path: Path, unchecked: None) -> None:
    config = {**tiny_models.CONFIGS["llama"], "intermediate_size": 80}
    folder = tiny_models.write_byte_level(tmp_path / "hf", config)
    (note,) = export(folder, tmp_path / "m.gguf", "Q8_0", silent).notes
    assert "3 matrices with rows that blocks of Q8_0 do not divide become F16" in note


@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_weights_that_are_no_numbers_are_named(
    tmp_path: Path, unchecked: None, kind: GgufType
) -> None:
    folder = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    tensors = tiny_models.weights(tiny_models.CONFIGS["llama"])
    tensors["lm_head.weight"][3, 5] = np.nan
    tiny_models.write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(QuantizeError, match=r"lm_head.weight holds values that are no numbers"):
        export(folder, tmp_path / "m.gguf", kind, silent)
    assert not (tmp_path / "m.gguf").exists()


def test_numbers_that_f16_cannot_hold_are_named(tmp_path: Path, unchecked: None) -> None:
    folder = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    tensors = tiny_models.weights(tiny_models.CONFIGS["llama"])
    tensors["lm_head.weight"] = np.full_like(tensors["lm_head.weight"], 1e6)
    tiny_models.write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(QuantizeError, match=r"lm_head.weight holds values that F16 cannot"):
        export(folder, tmp_path / "m.gguf", "F16", silent)
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


def vocabulary_only(path: Path, metadata: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        exporting._add(writer, key, value)
    return tiny_gguf.finished(writer, path)


SENTENCE_PIECE: dict[str, dict[str, Any]] = {"spm": {}, "spm-bare": {"add_space_prefix": False}}


@pytest.mark.parametrize(
    "name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o", *SENTENCE_PIECE]
)
def test_text_in_any_script_is_cut_as_before(name: str, tmp_path: Path) -> None:
    import llama_cpp

    path = tmp_path / "before.gguf"
    if name in SENTENCE_PIECE:
        tiny_gguf.write_sentence_piece(path, **SENTENCE_PIECE[name])
    else:
        tiny_gguf.write_byte_level(path, name)
    vocabulary = read_vocabulary(read_header(path, keep=VOCABULARY_KEYS))
    tokenizer, _ = build_tokenizer(vocabulary)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = {"bos_token": vocabulary.text(vocabulary.bos_id), "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(words))
    files = OnnxModelFiles(graph=tmp_path / "model.onnx", root=tmp_path)
    metadata = describe(files, len(vocabulary.tokens))
    again = vocabulary_only(tmp_path / "after.gguf", metadata)
    before, after = (
        llama_cpp.Llama(str(each), vocab_only=True, verbose=False) for each in (path, again)
    )
    for text in (MANY_SCRIPTS, *PIECES):
        wanted = before.tokenize(text.encode(), add_bos=True, special=True)
        assert after.tokenize(text.encode(), add_bos=True, special=True) == wanted, text
    if name in SPLITS:
        assert SPLITS[str(metadata["tokenizer.ggml.pre"])] == SPLITS[name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", '{"bos_token": 3}'),
        ("tokenizer_config.json", "version https://git-lfs.github.com/spec/v1"),
        ("tokenizer.json", None),
    ],
)
def test_a_damaged_tokenizer_is_named(
    name: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended the command with a traceback."""
    folder = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    if content is None:
        parsed = json.loads((folder / name).read_text())
        parsed["model"]["byte_fallback"] = None
        content = json.dumps(parsed)
    (folder / name).write_text(content)
    assert cli.run(["export", "gguf", str(folder), str(tmp_path / "m.gguf")]) == 1
    assert f"{name} " in capsys.readouterr().err


def test_a_name_that_is_no_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"]).rename(folder)
    assert cli.run(["export", "gguf", str(folder), str(tmp_path / "m.gguf")]) == 2
    assert "is not UTF-8 text: rename it" in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tiny_models.write(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    with pytest.raises(ExportError, match="neither bytes nor a fallback"):
        export(folder, tmp_path / "m.gguf", "auto", silent)


def test_a_tokenizer_that_llama_cpp_does_not_follow_is_told(
    tmp_path: Path, unchecked: None
) -> None:
    made = exported("llama", tmp_path)
    path = tmp_path / "hf" / "tokenizer.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "Lowercase"}})
    )
    (note,) = check_tokens(CheckOrder(path=made.path, folder=tmp_path / "hf"), silent)
    assert "cuts the text" in note


def test_the_storyteller_is_exported_by_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "m.gguf"
    assert cli.run(["export", "gguf", str(STORYTELLER), str(target), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["notes"] == []
    metadata = read_header(target).metadata
    assert (
        "<|im_start|>" in str(metadata["tokenizer.chat_template"])
        or metadata["tokenizer.chat_template"]
    )
    assert found["size_bytes"] == target.stat().st_size
