"""Options of an ONNX export that would change nothing are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from spillover.edge_server import cli
from tests import tiny_gguf, tiny_models
from tests.quantize.gguf.places import CONFIG

TEXT = "abc " * 200


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("options") / "hf", CONFIG)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    assert cli.run(["export", "onnx", *arguments]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--weights int8 --symmetric", "--symmetric has no effect with int8"),
        ("--weights fp16 --keep-8bit *", "--keep-8bit has no effect with fp16"),
        ("--weights int8 --calibration TEXT", "--calibration has no effect with int8"),
        ("--weights fp32 --head-bits 4", "--head-bits has no effect with fp32"),
        ("--weights fp16 --block 64", "--block has no effect with fp16"),
        ("--keep-8bit layers.7.*", "no matrix has a name that fits 'layers.7.*': "),
        ("--keep-8bit *.v_proj --keep-8bit *.v_proj.weight", "layers.0.self_attn.v_proj"),
        ("--keep-8bit layers.0.input_layernorm", "no matrix has a name"),
        ("--tokenizer SOURCE", "--tokenizer has no effect with a folder"),
        ("--calibration EMPTY", "is empty: give a text"),
        ("--n-ctx 0", "must have 1 to 128 tokens"),
    ],
)
def test_an_option_without_effect_is_refused(
    flags: str, words: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "empty").write_text(" \n")
    names = {"TEXT": tmp_path / "text", "EMPTY": tmp_path / "empty", "SOURCE": source}
    given = [str(names.get(flag, flag)) for flag in flags.split()]
    assert words in refused(capsys, str(source), str(tmp_path / "out"), *given)
    assert not (tmp_path / "out").exists()


def test_the_weights_that_a_quantized_file_keeps_are_not_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, "Q8_0")
    (tmp_path / "text").write_text(TEXT)
    asked = [str(source), str(tmp_path / "out"), "--calibration", str(tmp_path / "text")]
    assert "no effect with faithful weights" in refused(capsys, *asked)


@pytest.mark.parametrize(
    "flags", ["--block 32", "--head-bits 8", "--symmetric", "--keep-8bit *", "--weights fp16"]
)
def test_what_a_target_decides_cannot_be_said_beside_it(
    flags: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(source), str(tmp_path / "out"), "--target-bpw", "6", *flags.split()]
    assert "--target-bpw chooses" in refused(capsys, *asked, code=2)


def test_options_that_work_together_are_taken(source: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    flags = ["--block", "64", "--head-bits", "4", "--symmetric", "--keep-8bit", "lm_head"]
    text = ["--calibration", str(tmp_path / "text"), "--n-ctx", "64"]
    asked = ["export", "onnx", str(source), str(tmp_path / "out"), "--no-check"]
    assert cli.run([*asked, *flags, *text]) == 0
