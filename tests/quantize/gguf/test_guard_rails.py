"""What would harm a file or change nothing is refused before the work, and told by a dry run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spillover.edge_server import cli
from spillover.models.gguf_header import read_header
from spillover.quantize import new_file
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.guard_rails import check_plan, notes_on, refusals
from spillover.quantize.gguf.imatrix_file import Imatrix, write_imatrix
from spillover.quantize.gguf.native import plan
from spillover.quantize.gguf.recipe import Plan, PlannedTensor, Recipe
from spillover.quantize.gguf.run import run
from tests import tiny_gguf
from tests.quantize.gguf.places import CONFIG, order_for, silent


def planned(source: Path, recipe: Recipe) -> Plan:
    return plan(order_for(source, source.parent / "none.gguf", recipe), silent)


def refused(source: Path, recipe: Recipe) -> str:
    return "\n".join(refusals(source, recipe, planned(source, recipe)))


def imatrix(path: Path, names: list[str], n_inputs: int = 256) -> Path:
    sums = {name: np.ones((1, n_inputs), np.float32) for name in names}
    counts = {name: np.array([1.0], np.float32) for name in names}
    write_imatrix(
        path, Imatrix(sums=sums, counts=counts, n_chunks=1, chunk_size=1, datasets=("made-up",))
    )
    return path


@pytest.mark.parametrize(
    ("stored", "planned", "is_refused"),
    [
        ("Q4_0", "Q4_K", True),  # as many bits
        ("Q4_K", "Q4_0", True),
        ("Q4_0", "IQ4_NL", True),
        ("Q4_0", "Q4_1", True),  # half a bit more
        ("Q5_1", "Q6_K", True),
        ("Q8_0", "Q6_K", True),
        ("Q4_0", "Q4_0", False),  # copied
        ("Q4_0", "Q5_0", False),
        ("Q4_K", "Q6_K", False),
        ("Q6_K", "Q8_0", False),
        ("Q4_0", "F16", False),
        ("F16", "Q2_K", False),
        ("BF16", "F16", False),
    ],
)
def test_weights_are_rounded_again_where_the_new_type_has_no_bit_more(
    stored: str, planned: str, is_refused: bool
) -> None:
    one = PlannedTensor(name="x", shape=(256, 4), stored=stored, planned=planned, wanted=planned)
    assert one.is_rounded_again is is_refused


def test_rounding_to_as_many_bits_is_refused_and_copying_is_not(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, "Q4_0")
    fine = (("output", "Q8_0"),)  # which llama.cpp would give more bits by itself
    coarse = Recipe(file_type="Q4_K_S", tensors=fine)
    with pytest.raises(QuantizeError, match=r"Q4_0 → Q4_K in \d+.*--allow-requantize"):
        check_plan(source, coarse, planned(source, coarse))
    assert refused(source, Recipe(file_type="Q4_0", tensors=fine)) == ""
    asked_for = Recipe(file_type="Q4_K_S", tensors=fine, allow_requantize=True)
    assert refused(source, asked_for) == ""


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ((("attn_norm", "Q8_0"),), "attn_norm=Q8_0 has no effect.*never quantized"),
        ((("attn", "Q8_0"), ("attn_v", "Q6_K")), "attn_v=Q6_K has no effect.*a pattern before it"),
    ],
)
def test_a_pattern_that_changes_nothing_is_refused(
    tensors: tuple[tuple[str, str], ...], words: str, source: Path, tmp_path: Path
) -> None:
    recipe = Recipe(file_type="Q4_0", tensors=tensors)
    with pytest.raises(QuantizeError, match=words):
        run(source, tmp_path / "m.gguf", recipe, silent, n_threads=1)
    in_order = Recipe(file_type="Q4_0", tensors=(("attn_v", "Q6_K"), ("attn", "Q8_0")))
    assert refused(source, in_order) == ""


def test_an_importance_matrix_that_no_type_uses_is_left_out_and_told(
    source: Path, tmp_path: Path
) -> None:
    recipe = Recipe(file_type="Q8_0", is_calibrated=True)
    made = run(source, tmp_path / "m.gguf", recipe, silent, n_threads=1, is_checked=False)
    assert any("Q8_0 rounds all weights alike" in note for note in made.notes)
    assert "quantize.imatrix.file" not in read_header(tmp_path / "m.gguf").metadata
    finer = Recipe(file_type="Q4_0", is_calibrated=True)
    assert not any("alike" in note for note in notes_on(finer, planned(source, finer)))


@pytest.mark.parametrize(
    ("verb", "option"), [("quantize run", "--imatrix"), ("export onnx", "--calibration")]
)
def test_an_empty_name_is_no_option_left_out(
    verb: str, option: str, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a variable that a shell does not know: the file was made without it."""
    assert cli.run([*verb.split(), str(source), str(tmp_path / "out"), option, ""]) == 1
    assert "cannot be read: Is a directory" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_importance_matrix_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    own = imatrix(tmp_path / "own.gguf", ["blk.0.attn_q.weight"])
    assert refused(source, Recipe(file_type="Q4_0", imatrix=own)) == ""
    strange = imatrix(tmp_path / "strange.gguf", ["h.0.attn.weight"])
    assert "no matrix of this model" in refused(source, Recipe(file_type="Q4_0", imatrix=strange))
    larger = imatrix(tmp_path / "larger.gguf", ["blk.0.attn_q.weight"], 512)
    with pytest.raises(QuantizeError, match=r"another model.*512 inputs"):
        planned(source, Recipe(file_type="Q4_0", imatrix=larger))


def test_a_tensor_whose_importance_is_missing_is_named(source: Path, tmp_path: Path) -> None:
    """llama.cpp ends its process at the embedding, whatever matrix there is."""
    coarse = Recipe(file_type="Q4_0", tensors=(("token_embd", "IQ2_XS"),), is_calibrated=True)
    assert "cannot become IQ2_XS" in refused(source, coarse)
    own = imatrix(tmp_path / "own.gguf", ["blk.0.attn_q.weight"])
    found = refused(source, Recipe(file_type="IQ2_XS", imatrix=own))
    assert "no importance matrix has their inputs: blk.0." in found
    assert refused(source, Recipe(file_type="IQ2_XS", is_calibrated=True)) == ""
    found = refused(source, Recipe(file_type="Q2_K_S", imatrix=own))
    assert "no importance matrix has their inputs: blk.0." in found
    assert refused(source, Recipe(file_type="Q2_K_S", is_calibrated=True)) == ""
    assert refused(source, Recipe(file_type="Q2_K", imatrix=own)) == ""


def test_a_dry_run_tells_all_that_would_be_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, "Q8_0")
    taken = tmp_path / "taken.gguf"
    taken.write_text("mine")
    asked = ["quantize", "run", str(source), "--type", "IQ2_XS", "--dry-run", "--json"]
    assert cli.run([*asked, str(taken)]) == 1
    printed = capfd.readouterr()
    for words in ("Q8_0 → IQ2_XS", "needs an importance matrix", "taken.gguf exists"):
        assert words in printed.err
    made = json.loads(printed.out)
    assert len(made["refusals"]) == 3
    assert made["size_bytes"] > len("mine")

    monkeypatch.setattr(new_file, "_BESIDE_BYTES", 1 << 60)
    asked = ["quantize", "run", str(source), "--type", "Q8_0", "--dry-run"]
    assert cli.run([*asked, str(tmp_path / "new.gguf")]) == 1
    assert "free some space" in capfd.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"m.gguf", "taken.gguf"}


def test_a_place_that_cannot_be_written_is_named_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(QuantizeError, match=r"Not a directory \(.*file\)"):
        new_file.check_place(file / "m.gguf", 1)
    with pytest.raises(QuantizeError, match="exists"):
        run(source, source, Recipe(file_type="Q4_0"), silent, n_threads=1)
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root
    with pytest.raises(QuantizeError, match=r"Permission denied"):
        new_file.check_place(tmp_path / "a" / "b" / "m.gguf", 1)
    assert list(tmp_path.iterdir()) == [file]


def test_what_an_earlier_run_wrote_of_itself_is_gone(source: Path, tmp_path: Path) -> None:
    own = imatrix(tmp_path / "own.gguf", ["blk.0.attn_q.weight"])
    tensors = (("attn_q", "Q4_K"), ("attn_v", "Q6_K"))
    first = Recipe(file_type="Q4_0", imatrix=own, tensors=tensors)
    run(source, tmp_path / "1.gguf", first, silent, n_threads=1, is_checked=False)
    known = read_header(tmp_path / "1.gguf").metadata
    assert known["quantize.imatrix.entries_count"] == 1

    second = Recipe(file_type="Q8_0", tensors=(("attn_q", "F16"),))
    run(tmp_path / "1.gguf", tmp_path / "2.gguf", second, silent, n_threads=1, is_checked=False)
    found = read_header(tmp_path / "2.gguf").metadata
    assert found["spillover.source.name"] == "1.gguf"
    assert found["spillover.recipe.tensor.0"] == "attn_q=F16"
    stale = {
        name: found[name]
        for name, value in known.items()
        if name.startswith(("spillover.recipe", "quantize.imatrix")) and found[name] == value
    }
    assert stale == {}
    assert found["quantize.imatrix.file"] == found["spillover.recipe.tensor.1"] == ""
    assert found["quantize.imatrix.entries_count"] == 0


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_bound_that_is_no_number_is_wrong_use(value: str, source: Path, tmp_path: Path) -> None:
    """Nothing is larger than NaN: every file would have passed."""
    asked = ["quantize", "run", str(source), str(tmp_path / "m.gguf"), "--dry-run"]
    assert cli.run([*asked, "--max-divergence", value]) == 2
