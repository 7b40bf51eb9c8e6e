"""Recorded answers of the bundled model, played through the policies without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spillover.cloud_fallback.policy.calibration import SHIPPED, read_calibration
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server import cli
from spillover.edge_server.calibration import trace as tracing
from spillover.edge_server.calibration.replay import replay, summary
from spillover.runtime.errors import InvalidRequest

HERE = Path(__file__).parent
TRACES = HERE / "storyteller_traces.jsonl.xz"
"""What `spillover calibrate storyteller storyteller_prompts.jsonl --traces …` recorded."""
DECISIONS = HERE / "storyteller_decisions.jsonl"
"""What `spillover replay storyteller_traces.jsonl.xz --json` prints for each second prompt of a
family."""
CALIBRATION = next(SHIPPED.glob("storyteller-q8_0-*.json"))


def test_recorded_answers_give_the_decisions_they_always_gave(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A change of these decisions is a change of the policies: look at it, then print them anew."""
    assert cli.run(["replay", str(TRACES), "--calibration", str(CALIBRATION), "--json"]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    printed = [line for line in lines if line.get("id", "").endswith("/2")]
    kept = [json.loads(line) for line in DECISIONS.read_text("utf-8").splitlines()]
    assert [_rounded(line) for line in printed] == [_rounded(line) for line in kept]


def _rounded(value: object) -> object:
    """Logarithms may differ in their last bit from machine to machine."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return value


def test_the_calibrated_policies_catch_more_and_disturb_few() -> None:
    traces = list(tracing.read(TRACES))
    calibrated = LocalModel(calibration=read_calibration(CALIBRATION))
    with_it = summary(replay(t, PolicySettings(), calibrated) for t in traces)
    without = summary(replay(t, PolicySettings()) for t in traces)
    assert with_it.wrong_caught is not None
    assert without.wrong_caught is not None
    assert with_it.right_disturbed is not None
    assert with_it.wrong_caught > 1.3 * without.wrong_caught
    assert with_it.right_disturbed < 0.1 * with_it.n_handed_over


def test_the_same_trace_gives_the_same_decision_every_time() -> None:
    trace = next(t for t in tracing.read(TRACES) if t.wrong)
    assert len({repr(replay(trace, PolicySettings())) for _ in range(3)}) == 1


def test_traces_are_written_and_read_without_a_change(tmp_path: Path) -> None:
    traces = list(tracing.read(TRACES))[:40]
    for name in ("copy.jsonl", "copy.jsonl.xz"):
        tracing.write(tmp_path / name, traces)
        assert list(tracing.read(tmp_path / name)) == traces
    for trace in traces:
        again = tracing.recorded(trace.id, trace.request, trace.events())
        assert again.texts == trace.texts
        assert again.answer == trace.answer


def test_a_policy_file_changes_the_decisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[policy]\nswitched_off = ["refusal", "low_confidence", "wrong_script"]\n')
    assert cli.run(["replay", str(TRACES), "--policy", str(policy), "--raw"]) == 0
    text = capsys.readouterr().out
    assert "0 of 490 answers handed over: none" in text
    assert "in/sounds/2: local, 8 tokens  (right)" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("p_wrong_entre = 0.8", "p_wrong_entre"),
        ("p_wrong_enter = 3.0", "<= 1.0"),
        ("p_wrong_enter = ", "not valid TOML"),
        ('[[policy.rules]]\nname = "x"\npattern = "("', "the rule 'x'"),
    ],
)
def test_a_wrong_policy_file_is_named(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(content)
    assert cli.run(["replay", str(TRACES), "--policy", str(policy)]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_traces_is_named(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text('\n{"id": 1}\n')
    with pytest.raises(InvalidRequest, match="line 2 is not a trace"):
        list(tracing.read(path))
