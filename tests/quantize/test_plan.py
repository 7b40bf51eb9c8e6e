"""Which files of a model would fit: sizes, the pick, and the matrices that keep 8 bits."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from spillover.edge_server import cli
from spillover.models.catalogue import default_model
from spillover.quantize.onnx_export.calibrated import sensitivity, tokens
from spillover.quantize.onnx_export.calibrated.sensitivity import (
    Sensitivity,
    kept,
    sensitivities,
)
from spillover.quantize.onnx_export.export import export, open_source
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.sizes import n_params, rotary_bytes, weights_bytes
from spillover.quantize.onnx_export.source import WeightSource
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan import mixed
from spillover.quantize.plan.device_speed import DeviceSpeed
from spillover.quantize.plan.plan import Plan, Wish, plan
from spillover.quantize.plan.recipes import GGUF_RECIPES, ONNX_RECIPES
from tests import tiny_gguf, tiny_models
from tests.storyteller import STORYTELLER
from tests.tiny_models import CONFIGS, Array

SPEED = DeviceSpeed(memory=1e9, onnx={4: 5e8, 8: 8e8})
ANY = Wish(memory_bytes=1 << 40, n_ctx=512, speed_floor=0.0)


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


@pytest.mark.parametrize("name", ["llama-biased", "phi3", "gemma3"])
@pytest.mark.parametrize(
    "choices",
    [
        {"weights": "int4"},
        {"weights": "int4", "block": 64, "eight_bits": ("*.v_proj", "layers.1.*")},
        {"weights": "int8", "block": 128},
        {"weights": "int4", "head_bits": 4, "is_symmetric": True},
        {"weights": "fp32"},
    ],
)
def test_the_size_of_an_export_is_known_before(
    name: str, choices: dict[str, Any], tmp_path: Path
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS[name])
    check_size(tmp_path / "hf", ExportOptions(**choices), tmp_path / "out")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize(
    "choices",
    [
        {"weights": "int4", "block": 64, "eight_bits": ("*.down_proj",)},
        {"weights": "int8", "block": 128},
        {"weights": "faithful"},
    ],
)
def test_blocks_that_a_source_keeps_are_counted_as_they_are(
    kind: str, choices: dict[str, Any], tmp_path: Path
) -> None:
    # One of the queries, keys and values is stored in another type than the product's others.
    config = CONFIGS["llama"]
    values = tiny_models.weights(config)["model.layers.1.self_attn.v_proj.weight"]
    raw = {"blk.1.attn_v.weight": (values.view(np.uint8), "F32")}
    source = tiny_gguf.write_model(tmp_path / "m.gguf", config, kind, raw=raw)
    check_size(source, ExportOptions(**choices), tmp_path / "out")


def check_size(path: Path, options: ExportOptions, target: Path) -> None:
    exported = export(path, target, options, lambda n, n_all: None)
    source = SplitSource(open_source(path))
    graph = onnx.load(exported.folder / "model.onnx").graph
    stored = sum(
        len(one.raw_data) for one in graph.initializer if not one.name.startswith("constant.")
    )
    planned = weights_bytes(source, options) + rotary_bytes(source, options, exported.n_ctx)
    assert planned == stored


def test_the_pick_loses_least_of_what_fits_and_is_fast_enough() -> None:
    found = plan(STORYTELLER, ANY, SPEED, silent)
    by_loss = sorted(found.options, key=lambda one: one.expected_divergence)
    assert found.pick == by_loss[0].name
    assert {one.engine for one in found.options} == {"llama.cpp", "ONNX Runtime"}

    smallest = min(found.options, key=lambda one: one.peak_bytes)
    tight = msgspec.structs.replace(ANY, memory_bytes=smallest.peak_bytes)
    fitting = plan(STORYTELLER, tight, SPEED, silent)
    assert fitting.pick == smallest.name
    assert [one.name for one in fitting.options if one.fits] == [smallest.name]

    fastest = max(found.options, key=lambda one: one.tokens_per_s)
    quick = msgspec.structs.replace(ANY, speed_floor=fastest.tokens_per_s)
    assert plan(STORYTELLER, quick, SPEED, silent).pick == fastest.name


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"memory_bytes": 1}, "nothing fits"), ({"speed_floor": 1e12}, "fast enough")],
)
def test_a_wish_that_nothing_meets_has_no_pick(change: dict[str, Any], reason: str) -> None:
    found = plan(STORYTELLER, msgspec.structs.replace(ANY, **change), SPEED, silent)
    assert found.pick == ""
    assert reason in found.reason


def test_a_longer_context_takes_more_memory_and_time() -> None:
    short = plan(STORYTELLER, ANY, SPEED, silent).options
    long = plan(STORYTELLER, msgspec.structs.replace(ANY, n_ctx=1_024), SPEED, silent).options
    # 6 layers, keys and values, 2 heads of 64 values, in fp16 and in fp32.
    assert {one.engine: one.kv_bytes for one in short} == {
        "llama.cpp": 512 * 6 * 2 * 2 * 64 * 2,
        "ONNX Runtime": 512 * 6 * 2 * 2 * 64 * 4,
    }
    for one, other in zip(short, long, strict=True):
        assert other.kv_bytes == 2 * one.kv_bytes
        assert other.peak_bytes > one.peak_bytes
        assert other.tokens_per_s < one.tokens_per_s


def exact_but_one() -> dict[str, Array]:
    """Weights that 4 bits hold, but for those of one product."""
    tensors, random = tiny_models.weights(CONFIGS["llama"]), np.random.RandomState(3)
    for name, values in tensors.items():
        if name.endswith("_proj.weight") and name != "model.layers.1.self_attn.o_proj.weight":
            # Sixteen steps from 0 on in each block.
            values[...] = random.randint(0, 16, values.shape) / 200
            values[:, ::32], values[:, 1::32] = 0, 15 / 200
    return tensors


def losses_of(folder: Path, tensors: dict[str, Array]) -> list[Sensitivity]:
    tiny_models.write(folder, CONFIGS["llama"])
    tiny_models.write_safetensors(folder / "model.safetensors", tensors)
    source, options = SplitSource(open_source(folder)), ExportOptions(weights="int4")
    return sensitivities(source, options, tiny_models.IDS, 48, lambda n, n_all: None)


def test_the_matrix_that_suffers_most_is_found(tmp_path: Path) -> None:
    found = losses_of(tmp_path, exact_but_one())
    assert len(found) == 3 * 5
    most = max(found, key=lambda one: one.loss)
    assert most.matrices == ("layers.1.self_attn.o_proj",)
    assert all(one.loss >= 0 and one.more_bytes > 0 for one in found)


def test_matrices_are_compared_with_little_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "available_memory", lambda: 0)
    monkeypatch.setattr(sensitivity, "_FEWEST_SCORED", 20)
    most = max(losses_of(tmp_path, exact_but_one()), key=lambda one: one.loss)
    assert most.matrices == ("layers.1.self_attn.o_proj",)


def test_bytes_go_where_they_help_most() -> None:
    few, some, much = (
        Sensitivity(matrices=(name,), loss=loss, more_bytes=n_bytes)
        for name, loss, n_bytes in (("a", 1.0, 10), ("b", 3.0, 20), ("c", 8.0, 100))
    )
    assert kept([few, some, much], 30) == ("a", "b")
    assert kept([few, some, much], 120) == ("b", "c")
    assert kept([few, some, much], 9) == ()


def test_the_command_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", "plan", str(STORYTELLER), "--memory"]
    assert cli.run([*arguments, "4GiB", "--n-ctx", "512"]) == 0
    printed = capsys.readouterr().out
    assert "**pick**" in printed
    assert "Memory: 4295 MB" in printed
    assert cli.run([*arguments, "much"]) == 2


def test_sizes_of_a_gguf_file_are_those_of_llama_cpp(capsys: pytest.CaptureFixture[str]) -> None:
    path = default_model().path
    assert cli.run(["quantize", "plan", str(path), "--n-ctx", "256", "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Plan)
    stored = next(one for one in found.options if one.name == "Q8_0")
    assert stored.size_bytes == pytest.approx(path.stat().st_size, rel=0.01)
    assert min(one.tokens_per_s for one in found.options) > 1  # this device was measured


def test_a_target_size_names_the_matrices_that_keep_8_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    arguments = ["quantize", "plan", str(tmp_path / "hf"), "--target-bpw"]
    (tmp_path / "text").write_text("abc " * 200)
    text = ["--text", str(tmp_path / "text")]
    assert cli.run([*arguments, "8", *text, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < len(found["kept"]) < found["n_matrices"]
    assert found["bits_per_weight"] <= 8
    flags = [flag for name in found["kept"] for flag in ("--keep-8bit", name)]
    out = str(tmp_path / "out")
    made = [str(tmp_path / "hf"), out, "--weights", "int4", "--block", str(found["block"])]
    assert cli.run(["export", "onnx", *made, *flags, "--no-check"]) == 0
    assert cli.run([*arguments, "3", *text]) == 1
    assert "too few" in capsys.readouterr().err


@pytest.mark.parametrize("best", [32, 64])
def test_the_block_size_is_the_one_that_loses_least_of_this_model(
    best: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(source: WeightSource, options: ExportOptions, *rest: Any) -> list[Sensitivity]:
        factor = 1 if options.block == best else 100
        return [
            msgspec.structs.replace(one, loss=factor * one.loss)
            for one in sensitivities(source, options, *rest)
        ]

    monkeypatch.setattr(mixed, "sensitivities", measured)
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    (tmp_path / "text").write_text("abc " * 200)
    text = ["--text", str(tmp_path / "text")]
    asked = ["quantize", "plan", str(tmp_path / "hf"), "--target-bpw", "8", *text, "--json"]
    assert cli.run(asked) == 0
    assert json.loads(capsys.readouterr().out)["block"] == best


def test_one_command_measures_and_exports_with_so_many_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    (tmp_path / "text").write_text("abc " * 200)
    asked = ["export", "onnx", str(tmp_path / "hf"), str(tmp_path / "out"), "--no-check"]
    asked += ["--target-bpw"]
    text = ["--calibration", str(tmp_path / "text")]
    assert cli.run([*asked, "6.5", *text, "--weights", "int8"]) == 2
    assert cli.run([*asked, "6.5", *text]) == 0
    assert "matrices keep 8 bits" in capsys.readouterr().err
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    bits = [a.i for node in products for a in node.attribute if a.name == "bits"]
    assert set(bits) == {4, 8}
    stored = sum(
        len(one.raw_data)
        for one in graph.initializer
        if not one.name.startswith(("constant.", "rotary."))
    )
    n_values = n_params(SplitSource(open_source(tmp_path / "hf")))
    assert 4.5 < 8 * stored / n_values <= 6.5


def published_losses() -> dict[str, float]:
    """By recipe: nats, from the first table of losses in the documentation."""
    text = (Path(__file__).parents[2] / "docs" / "quantize.md").read_text("utf-8")
    table = text.split("## What recipes lose", 1)[1].split("| recipe | engine | MB |", 1)[1]
    rows = itertools.takewhile(lambda line: line.startswith("|"), table.splitlines()[1:])
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: float(loss.split()[0]) for name, _, _, loss, *_ in cells[1:]}


def test_a_plan_expects_what_is_published() -> None:
    published = published_losses()
    expected = {
        **{one.file_type + "-im" * one.has_imatrix: one.expected for one in GGUF_RECIPES},
        **{one.name: one.expected for one in ONNX_RECIPES},
    }
    assert {name: published[name] for name in expected} == expected
