"""Every command that a plan prints runs as it is printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

from spillover.edge_server import cli
from spillover.edge_server.commands import export as export_command
from spillover.edge_server.commands.quantities import size
from spillover.edge_server.commands.quantize.plan import plan as plan_command
from spillover.quantize.gguf_export import export as gguf_exporting
from spillover.quantize.plan import device_speed, gguf_mixed, mixed
from spillover.quantize.plan.commands import new_name, typed
from spillover.quantize.plan.device_speed import DeviceSpeed
from tests import tiny_gguf, tiny_models
from tests.quantize.gguf.places import CONFIG

N_CTX = 64
TEXT = "abc " * 200


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, on a device that need not be measured, with a short text. What is made
    is not compared with its source."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    speed = DeviceSpeed(memory=1e9, onnx={4: 5e8, 8: 8e8})
    monkeypatch.setattr(device_speed, "measure_speed", lambda: speed)
    monkeypatch.setattr(export_command, "calibration_text", lambda: TEXT)
    monkeypatch.setattr(export_command, "_check", lambda source: None)
    monkeypatch.setattr(gguf_exporting, "has_llama", lambda: False)
    return place


def source_of(kind: str, folder: Path) -> Path:
    if kind == "hf":
        return tiny_models.write_byte_level(folder / "a model", CONFIG)
    return tiny_gguf.write_model(folder / f"a model-{kind}.gguf", CONFIG, kind)


def run(line: str) -> None:
    """Run a line of commands; what quantizes does so dry."""
    for command in line.split(" && "):
        name, *arguments = shlex.split(command)
        assert name == "spillover"
        is_made = arguments[:2] == ["export", "gguf"] and Path(arguments[3]).exists()
        dry = ["--dry-run"] if arguments[:2] == ["quantize", "run"] else []
        assert is_made or cli.run([*arguments, *dry]) == 0, command


@pytest.mark.parametrize("kind", ["hf", "F16", "Q4_0"])
def test_every_file_of_a_plan_can_be_made_by_its_command(
    kind: str, tmp_path: Path, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = source_of(kind, tmp_path)
    asked = ["quantize", "plan", str(source), "--n-ctx", str(N_CTX)]
    assert cli.run([*asked, "--json"]) == 0
    options = json.loads(capfd.readouterr().out)["options"]
    for option in options:
        run(option["command"])
    graphs = [onnx.load(path).graph for path in place.glob("*/model.onnx")]
    assert len(graphs) == sum(option["engine"] == "ONNX Runtime" for option in options) > 0
    tables = [t.dims[0] for graph in graphs for t in graph.initializer if t.name == "rotary.cos"]
    assert tables == [N_CTX] * len(graphs)
    rounded = [option["name"] for option in options if option["is_rounded_again"]]
    assert ("Q4_K_M" in rounded, "Q8_0" in rounded) == (kind == "Q4_0", False)

    capfd.readouterr()
    assert cli.run(asked) == 0
    printed = capfd.readouterr().out
    assert ("rounds twice" in printed) == (kind == "Q4_0")
    assert "--allow-requantize" not in printed
    run(printed.splitlines()[-1])  # the names that were taken are not named again


def test_a_pick_does_not_round_weights_once_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = source_of("Q8_0", tmp_path)
    asked = ["quantize", "plan", str(source), "--n-ctx", str(N_CTX)]
    assert cli.run([*asked, "--json"]) == 0
    options = json.loads(capfd.readouterr().out)["options"]
    peaks = sorted(one["peak_bytes"] for one in options if not one["is_rounded_again"])
    assert cli.run([*asked, "--memory", str(peaks[0] - 1)]) == 0
    printed = capfd.readouterr().out
    assert "rounds twice" in printed
    assert "start from the F16, BF16 or F32 file" in printed
    assert "**pick**" not in printed


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("hf", ["--format", "gguf"]),
        ("F16", []),
        ("hf", ["--n-ctx", str(N_CTX)]),
        ("F16", ["--format", "onnx", "--n-ctx", str(N_CTX)]),
    ],
)
def test_the_commands_for_a_target_run_as_they_are_printed(
    kind: str,
    flags: list[str],
    tmp_path: Path,
    place: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source, text = source_of(kind, tmp_path), tmp_path / "a text"
    text.write_text(TEXT)
    asked = ["quantize", "plan", str(source), "--target-bpw", "6.5", "--text", str(text)]
    assert cli.run([*asked, *flags]) == 0
    lines = [x for x in capfd.readouterr().out.splitlines() if x.startswith("spillover ")]
    assert cli.run([*asked, *flags, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["commands"] == lines
    for line in lines:
        run(line)
    assert len(lines) == {("hf", "gguf"): 3, ("F16", "gguf"): 2}.get(
        (kind, (flags or ["gguf"])[-1]), 1
    )
    for graph in (onnx.load(path).graph for path in place.glob("*/model.onnx")):
        assert [t.dims[0] for t in graph.initializer if t.name == "rotary.cos"] == [N_CTX]


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_a_target_that_cannot_be_met_is_refused_before_anything_is_measured(
    kind: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(gguf_mixed, "tensor_losses", measured)
    monkeypatch.setattr(mixed, "sensitivities", measured)
    asked = ["quantize", "plan", str(source_of("F16", tmp_path)), "--format", kind]
    for target, words in (
        (["--target-size", "1kB"], "too few"),
        (["--target-bpw", "12"], "leave nothing to choose"),
        (["--target-size", "1 GiB"], "leave nothing to choose"),
    ):
        assert cli.run([*asked, *target]) == 1
        told = capfd.readouterr().err
        assert words in told
        assert "can take from " in told
    (tmp_path / "short").write_text("a few words")
    assert cli.run([*asked, "--target-bpw", "6", "--text", str(tmp_path / "short")]) == 1
    assert "has 9 tokens: it needs" in capfd.readouterr().err
    (tmp_path / "empty").write_text("\n ")
    assert cli.run([*asked, "--target-bpw", "6", "--text", str(tmp_path / "empty")]) == 1
    assert "is empty" in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--memory", "0"],
        ["--memory", "-1GiB"],
        ["--memory", "nan"],
        ["--memory", "4 potatoes"],
        ["--memory", "0.4"],
        ["--memory", "999999999999999TB"],
        ["--speed-floor", "nan"],
        ["--speed-floor", "-1"],
        ["--target-bpw", "nan"],
        ["--target-size", "0MB"],
        ["--n-ctx", "0"],
        ["--text", "text"],
        ["--format", "gguf"],
        ["--target-bpw", "6", "--memory", "4GiB"],
        ["--target-bpw", "6", "--speed-floor", "1"],
        ["--target-bpw", "6", "--n-ctx", "64"],
        ["--target-bpw", "6", "--target-size", "1MB"],
    ],
)
def test_options_that_mean_nothing_are_wrong_use(
    flags: list[str], tmp_path: Path, place: Path
) -> None:
    (place / "text").write_text(TEXT)
    source = tmp_path / "m.gguf"
    source.touch()
    assert cli.run(["quantize", "plan", str(source), *flags]) == 2


@pytest.mark.parametrize("given", ["4GiB", "4 GiB", "4gib", "4294967296", "4294967296B", "4Gi"])
def test_a_size_may_be_written_in_many_ways(given: str) -> None:
    option = click.Option(["--memory"])
    assert size(click.Context(plan_command), option, given) == 4 << 30


def test_an_engine_for_which_nothing_can_be_made_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scaled = {"rope_scaling": tiny_models.CONFIGS["llama-3.1"]["rope_scaling"]}
    config = {**tiny_models.CONFIGS["qwen2"], **scaled}
    source = tiny_models.write_byte_level(tmp_path / "hf", config)
    assert cli.run(["quantize", "plan", str(source)]) == 0
    printed = capfd.readouterr()
    assert "nothing for llama.cpp: llama.cpp has no tensor rope_freqs" in printed.err
    assert "| llama.cpp |" not in printed.out
    asked = ["quantize", "plan", str(source), "--target-bpw", "6", "--format", "gguf"]
    assert cli.run(asked) == 1
    assert "rope_freqs" in capfd.readouterr().err
    tiny_models.write(tmp_path / "hf", config)  # a tokenizer that neither engine has
    assert cli.run(["quantize", "plan", str(source)]) == 1
    assert "nothing for ONNX Runtime: Spillover could not run" in capfd.readouterr().err


def test_a_context_is_at_most_the_models(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["quantize", "plan", str(source_of("F16", tmp_path)), "--memory", "4gb"]
    assert cli.run(asked) == 0
    assert "Memory: 4000 MB. Context: 128 tokens." in capfd.readouterr().out


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm-F16.gguf", "smollm-int8"),
        ("smollm.Q4_K_M.gguf", "smollm-int8"),
        ("smollm-q8_0-00001-of-00002.gguf", "smollm-int8"),
        ("F16.gguf", "F16-int8"),
        ("smollm-F16x.gguf", "smollm-F16x-int8"),
    ],
)
def test_a_new_name_says_what_it_is_made_of(model: str, name: str, place: Path) -> None:
    assert new_name(Path(model), "int8") == Path(name)
    (place / name).mkdir()
    assert new_name(Path(model), "int8") == Path(f"{name}-2")
    assert typed(Path("-x y")) == "'./-x y'"
