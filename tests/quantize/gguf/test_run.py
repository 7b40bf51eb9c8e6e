"""A file is quantized completely or not at all, and not to its harm."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from spillover.edge_server import cli
from spillover.models.gguf_header import read_header
from spillover.quantize import new_file
from spillover.quantize.child import Child
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.guard_rails import check_plan, notes_on
from spillover.quantize.gguf.native import plan, quantize
from spillover.quantize.gguf.recipe import Plan, Recipe
from spillover.quantize.gguf.run import run
from spillover.quantize.gguf.verify import VerifyOrder, verify
from spillover.quantize.verification import most_divergence
from tests import tiny_bert, tiny_gguf, tiny_models
from tests.quantize.gguf.places import CONFIG, order_for, silent

Q4 = Recipe(file_type="Q4_K_M")


def planned(source: Path, recipe: Recipe) -> Plan:
    return plan(order_for(source, source.parent / "none.gguf", recipe), silent)


def test_the_new_file_says_where_it_comes_from(source: Path, tmp_path: Path) -> None:
    recipe = Recipe(file_type="Q4_K_M", tensors=(("ffn_down", "Q8_0"),))
    made = run(source, tmp_path / "m.gguf", recipe, silent, n_threads=1)
    found = read_header(tmp_path / "m.gguf").metadata
    assert found["spillover.source.name"] == source.name
    assert found["spillover.source.sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert found["spillover.recipe.type"] == "Q4_K_M"
    assert found["spillover.recipe.tensor.0"] == "ffn_down=Q8_0"
    assert "llama-cpp-python" in str(found["spillover.tools"])
    assert made.verdict is not None
    assert 0 < made.verdict.divergence < most_divergence(4.5)
    assert made.size_bytes == (tmp_path / "m.gguf").stat().st_size


def test_a_long_recipe_is_kept_whole(source: Path, tmp_path: Path) -> None:
    """llama.cpp takes texts of 127 bytes, and the rest of a pattern of many layers was lost."""
    pattern = rf"^blk\.({'|'.join(map(str, range(60)))})\.ffn_down\.weight$"
    recipe = Recipe(file_type="Q4_K_M", tensors=((pattern, "Q8_0"), ("attn_v", "Q6_K")))
    run(source, tmp_path / "m.gguf", recipe, silent, n_threads=1, is_checked=False)
    found = read_header(tmp_path / "m.gguf").metadata
    names = ["spillover.recipe.tensor.0", "spillover.recipe.tensor.0.1"]
    assert "".join(str(found[name]) for name in names) == f"{pattern}=Q8_0"
    assert found["spillover.recipe.tensor.1"] == "attn_v=Q6_K"


def test_tensors_of_a_source_with_other_gaps_are_where_the_new_file_says(
    source: Path, tmp_path: Path
) -> None:
    """llama.cpp places them at multiples of 32 bytes, and copied that they are at those of 4096."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(tmp_path / "wide.gguf", "llama")
    writer.add_custom_alignment(4096)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind, *inside = field.types
            element = inside[-1] if inside else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    wide = tiny_gguf.finished(writer, tmp_path / "wide.gguf")
    contents = []
    for one in (source, wide):
        target = tmp_path / f"of-{one.name}"
        run(one, target, Recipe(file_type="Q4_0"), silent, n_threads=1, is_checked=False)
        contents.append(target.read_bytes()[read_header(target).data_offset :])
    assert contents[0] == contents[1]


def test_only_the_child_loads_what_is_slow(source: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from spillover.quantize.gguf.recipe import Recipe
        from spillover.quantize.gguf.run import run

        source, target = map(Path, sys.argv[1:])
        silent = lambda what, n_done, n_all: None
        run(source, target, Recipe(file_type="Q8_0"), silent, n_threads=1)
        print(*{"numpy", "llama_cpp", "gguf"} & set(sys.modules))
    """
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "m.gguf")]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    ("part", "modules"),
    [
        ("parent", "edge_server.commands.quantize.group quantize.gguf.run"),
        ("child", "quantize.child quantize.gguf.native quantize.gguf.llama_quantize"),
    ],
)
def test_nothing_slow_is_loaded_before_the_work_begins(part: str, modules: str) -> None:
    """Both waited for what is needed later, beside the other one's work, or never."""
    names = ", ".join(f"spillover.{module}" for module in modules.split())
    slow = {"hashlib", "importlib.metadata", "platformdirs", "psutil", "subprocess", "tempfile"}
    code = f"import sys, {names}; print(*{slow} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.split() == [], part


def test_ctrl_c_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def stop(what: str, n_done: int, n_all: int) -> None:
        if what == "quantizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "m.gguf", Q4, stop, n_threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_predicts_something_else_is_not_kept(source: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="nats from its source's"):
        run(source, tmp_path / "m.gguf", Q4, silent, n_threads=1, most=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_parts_is_quantized_as_one(source: Path, tmp_path: Path) -> None:
    tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, "F16", n_part=4)
    parts = sorted(tmp_path.iterdir())
    recipe = Recipe(file_type="Q4_K_M", tensors=(("ffn_down", "Q8_0"),))
    made = run(parts[1], tmp_path / "small.gguf", recipe, silent, n_threads=1)
    run(source, tmp_path / "of-one.gguf", recipe, silent, n_threads=1, is_checked=False)
    found, wanted = (read_header(tmp_path / f"{name}.gguf") for name in ("small", "of-one"))
    assert found.tensors == wanted.tensors
    contents = [
        (tmp_path / f"{name}.gguf").read_bytes()[header.data_offset :]
        for name, header in (("small", found), ("of-one", wanted))
    ]
    assert contents[0] == contents[1]
    whole = b"".join(part.read_bytes() for part in parts)
    assert found.metadata["spillover.source.sha256"] == hashlib.sha256(whole).hexdigest()
    assert made.verdict is not None
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(QuantizeError, match=r"the first one renamed-00001-of-0000\d.gguf"):
        run(tmp_path / "renamed.gguf", tmp_path / "new.gguf", recipe, silent, n_threads=1)


def test_llama_cpp_is_asked_once_for_its_plan(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked twice where no type counts how important weights are."""
    called, call = [], Child.call

    def counted(child: Child, function: Any, *given: Any, **named: Any) -> Any:
        called.append(function)
        return call(child, function, *given, **named)

    monkeypatch.setattr(Child, "call", counted)
    recipe = Recipe(file_type="Q8_0", is_calibrated=True)
    run(source, tmp_path / "m.gguf", recipe, silent, n_threads=1, is_checked=False)
    assert called == [plan, quantize]


def test_a_file_that_computes_nonsense_is_not_kept(source: Path, tmp_path: Path) -> None:
    rows = np.full((256, 256), np.nan, np.float32)
    raw = {"blk.0.ffn_up.weight": (rows.view(np.uint8), "F32")}
    broken = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, raw=raw)
    with pytest.raises(QuantizeError, match="no finite numbers"):
        verify(VerifyOrder(source=source, target=broken, n_threads=1), silent)


def test_a_model_for_embeddings_is_only_loaded_and_that_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tiny_bert.write_gguf(tmp_path / "bert.gguf", tiny_bert.weights())
    asked = ["quantize", "run", str(source), str(tmp_path / "m.gguf"), "--type", "Q8_0"]
    assert cli.run(asked) == 0
    assert "makes vectors: it loads, and was not compared" in capfd.readouterr().err
    assert cli.run([*asked[:3], str(tmp_path / "n.gguf"), *asked[4:], "--no-check"]) == 0
    assert "compared" not in capfd.readouterr().err


def test_a_file_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(QuantizeError, match="exists"), new_file.new_file(tmp_path / "m.gguf"):
        pass
    assert (tmp_path / "m.gguf").read_text() == "mine"


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("quantized") / "m-Q5_0.gguf"
    quantize(order_for(source, target, Recipe(file_type="Q5_0")), silent)
    return target


def test_rounding_twice_is_refused(quantized: Path) -> None:
    with pytest.raises(QuantizeError, match=r"Q5_0 → Q4_K.*--allow-requantize"):
        check_plan(quantized, Q4, planned(quantized, Q4))


def test_rounding_twice_can_be_asked_for(quantized: Path) -> None:
    recipe = Recipe(file_type="Q4_K_M", allow_requantize=True)
    found = planned(quantized, recipe)
    check_plan(quantized, recipe, found)
    assert "rounded once more" in next(notes_on(recipe, found))


def test_more_bits_than_before_are_no_loss(quantized: Path) -> None:
    recipe = Recipe(file_type="Q8_0")
    check_plan(quantized, recipe, planned(quantized, recipe))


def test_an_imatrix_that_is_needed_is_asked_for(source: Path) -> None:
    recipe = Recipe(file_type="IQ2_XS")
    with pytest.raises(QuantizeError, match="needs an importance matrix"):
        check_plan(source, recipe, planned(source, recipe))


def test_tensors_that_blocks_do_not_fit_are_named(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], "F16")
    notes = list(notes_on(Q4, planned(source, Q4)))
    assert any("rows of 64 values cannot be Q4_K" in note and "Q5_0" in note for note in notes)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(file_type="Q4_0", tensors=(("nothing", "Q8_0"),)), "no tensor has a name with"),
        (Recipe(file_type="Q4_0", tensors=(("(", "Q8_0"),)), "no regular expression"),
        (Recipe(file_type="F16", tensors=(("ffn", "Q8_0"),)), "gives single tensors no other type"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(
    recipe: Recipe, words: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError, match=words):
        run(source, tmp_path / "out.gguf", recipe, silent, n_threads=1)


def test_a_dry_run_writes_nothing(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quantize", "run", str(source), str(tmp_path / "m.gguf"), "--type", "q2_k"]
    assert cli.run([*arguments, "--dry-run", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["size_bytes"] > 0
    assert found["types"]["Q2_K"] > 0
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tensor_type_is_wrong_use(source: Path, tmp_path: Path) -> None:
    arguments = ["quantize", "run", str(source), str(tmp_path / "m.gguf")]
    assert cli.run([*arguments, "--tensor", "ffn=Q9"]) == 2
