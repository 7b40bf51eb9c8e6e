"""spillover calibrate with the bundled model in a real worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.policy.calibration import read_calibration
from spillover.edge_server import cli
from spillover.edge_server.calibration import items, trace
from spillover.edge_server.calibration.fit import FITTED
from tests.edge_server.calibration import make_prompts
from tests.edge_server.calibration.test_replay import CALIBRATION, TRACES

PROMPTS = make_prompts.PATH
SHORT = (
    "in/sounds",
    "in/colours",
    "in/small_talk",
    "in/days",
    "out/capitals",
    "out/products",
    "in/remembered_names",
    "out/conversions",
)
"""Families with short answers."""


def test_the_committed_prompts_are_those_of_the_generator() -> None:
    made = [json.dumps(line, sort_keys=True) for line in make_prompts.lines()]
    lines = PROMPTS.read_text("utf-8").splitlines()
    kept = [json.dumps(json.loads(line), sort_keys=True) for line in lines]
    assert made == kept
    found = items.read(PROMPTS)
    assert len({item.id for item in found}) == len(found) == 490
    assert len({item.group for item in found}) == 35


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [
        line
        for line in PROMPTS.read_text("utf-8").splitlines()
        if json.loads(line)["group"] in SHORT
    ]
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_calibrate_reports_and_writes_a_file_that_replay_reads(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, traces = tmp_path / "c.json", tmp_path / "t.jsonl"
    arguments = ["--output", str(output), "--traces", str(traces), "--language", "en"]
    assert cli.run(["calibrate", "storyteller", str(prompts), *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["n_items"] == len(SHORT) * make_prompts.PER_FAMILY
    assert report["random_half"]["auroc"] >= 0.9
    assert report["other_families"]["auroc"] >= 0.8
    assert len(report["random_half"]["curve"]) == 11
    assert {group["name"] for group in report["groups"]} == set(SHORT)
    found = read_calibration(output)
    assert found is not None
    assert found.features == FITTED
    assert found.languages == ("en",)
    recorded = list(trace.read(traces))
    assert {t.fingerprint for t in recorded} == {found.fingerprint}
    assert cli.run(["replay", str(traces), "--calibration", str(output)]) == 0
    assert f"of {len(recorded)} answers handed over" in capsys.readouterr().out


def report_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What calibrate finds out from the recorded answers of the bundled model."""
    command = ["calibrate", "storyteller", str(PROMPTS), "--reuse", str(TRACES), *arguments]
    assert cli.run([*command, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["report"]
    return found


def test_wrong_answers_of_the_bundled_model_are_separated_from_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On prompts that the fit has not seen, and on kinds of prompts that it has not seen."""
    output = tmp_path / "c.json"
    arguments = ("--output", str(output), "--language", "en", "--no-tools")
    report = report_of(capsys, *arguments)
    assert report["random_half"]["auroc"] >= 0.90
    assert report["other_families"]["auroc"] >= 0.90
    assert report["mixed_families"]["auroc"] >= 0.75
    assert report["random_half"]["calibration_error"] < 0.1
    made, shipped = read_calibration(output), read_calibration(CALIBRATION)
    assert made is not None
    assert shipped is not None
    assert made.weights == pytest.approx(shipped.weights, abs=1e-4)
    numbers = {name: getattr(shipped, name) for name in ("weights", "means", "scales", "bias")}
    assert msgspec.structs.replace(made, **numbers) == shipped, (
        "fit the shipped calibration anew: see docs/handoff-quality.md"
    )


def reused(prompts: Path, lines: list[str], tmp_path: Path) -> list[str]:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines))
    return ["calibrate", "storyteller", str(few), "--reuse", str(TRACES)]


def test_the_name_of_a_language_is_no_code(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "storyteller", str(PROMPTS), "--reuse", str(TRACES)]
    assert cli.run([*command, "--language", "english"]) == 2
    assert "'english' is no code of a language such as en" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--traces", "--output"])
def test_the_prompts_are_not_written_over(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    command = reused(prompts, prompts.read_text().splitlines()[:4], tmp_path)
    before = Path(command[2]).read_text()
    assert cli.run([*command, flag, command[2]]) == 2
    assert f"{flag} would replace" in capsys.readouterr().err
    assert Path(command[2]).read_text() == before


def test_few_prompts_give_a_calibration_and_no_auroc(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = prompts.read_text().splitlines()
    output = tmp_path / "c.json"
    command = reused(prompts, lines[:20] + lines[-20:], tmp_path)
    assert cli.run([*command, "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "40 labelled answers are too few" in text
    assert "AUROC" not in text
    assert output.exists()


def test_too_few_of_a_kind_give_no_calibration(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "c.json"
    command = reused(prompts, prompts.read_text().splitlines()[:4], tmp_path)
    assert cli.run([*command, "--output", str(output)]) == 1
    assert "no calibration was made" in capsys.readouterr().err
    assert not output.exists()


def test_answers_that_were_not_recorded_are_named(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = prompts.read_text().splitlines()[0].replace("sound", "noise")
    assert cli.run(reused(prompts, [changed], tmp_path)) == 2
    assert "no recorded answer to the prompt 'in/" in capsys.readouterr().err
