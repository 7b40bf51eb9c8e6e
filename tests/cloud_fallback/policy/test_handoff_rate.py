"""The handoff-rate target: a threshold that follows this device's own answers."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from spillover.cloud_fallback.policy.calibration_store import CalibrationStore, fingerprint
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.recent_scores import N_KEPT, N_NEEDED, RecentScores
from spillover.cloud_fallback.policy.settings import PolicySettings, Rule
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.errors import InvalidRequest
from tests.cloud_fallback.policy.answers import FakeClock, asked, finished, prose
from tests.cloud_fallback.policy.test_learning import CARD, calibration


def test_the_threshold_is_a_quantile_of_the_last_answers(tmp_path: Path) -> None:
    scores = RecentScores("m", tmp_path)
    for i in range(N_NEEDED - 1):
        scores.add(i / 100)
    assert scores.threshold(0.1) is None
    for i in range(1_000):
        scores.add((i % 100) / 100)
    assert len(scores) == N_KEPT
    threshold = scores.threshold(0.1)
    assert threshold == pytest.approx(0.9, abs=0.02)
    scores.add(float("nan"))
    assert scores.threshold(0.1) == threshold


def test_scores_outlive_the_process_and_damage(tmp_path: Path) -> None:
    scores = RecentScores("m", tmp_path)
    for i in range(30):
        scores.add(i / 30)
    scores.flush()
    assert RecentScores("m", tmp_path).threshold(0.2) == scores.threshold(0.2)
    [path] = (tmp_path / "scores").iterdir()
    path.write_bytes(b"[1, 2")
    assert len(RecentScores("m", tmp_path)) == 0


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "scores").write_text("a file where a folder should be")
    scores = RecentScores("m", tmp_path)
    for i in range(30):
        scores.add(i / 30)
    scores.flush()
    assert scores.threshold(0.5) is not None


def _answer(policy: LocalPolicy, doubt: float) -> tuple[Watch, bool]:
    """One answer in which the model's mean logprob is -10 * doubt after a good start."""
    clock, triggers = FakeClock(), list[Reason]()
    watch = policy.watch(asked(), clock=clock, on_trigger=triggers.append)
    for delta in prose(16) + prose(32, 16, logprob=-10 * doubt):
        clock.pass_s(0.02)
        if watch.see(delta) == "handoff":
            return watch, True
    return watch, watch.finished(finished(n=48)) is not None


@pytest.mark.parametrize("target", [0.05, 0.2, 0.5])
def test_the_rate_comes_near_its_target_on_any_device(tmp_path: Path, target: float) -> None:
    """Two devices: one whose model is never sure of anything, one that is nearly always."""
    for scale in (0.2, 1.0):
        settings = PolicySettings(handoff_rate_target=target)
        policy = LocalPolicy(settings, CARD, data_dir=tmp_path / str(scale))
        rng = random.Random(7)
        given = []
        for _ in range(700):
            watch, handed_over = _answer(policy, scale * rng.random())
            policy.learn(watch)
            given.append(handed_over)
        rate = sum(given[200:]) / 500
        assert abs(rate - target) < 0.08


def test_a_calibrated_model_keeps_what_is_likely_right(tmp_path: Path) -> None:
    CalibrationStore(tmp_path).write(CARD, calibration(bias=-6.0))
    settings = PolicySettings(handoff_rate_target=0.5)
    policy = LocalPolicy(settings, CARD, data_dir=tmp_path)
    assert policy.local.calibration is not None
    for _ in range(40):
        watch, handed_over = _answer(policy, 0.01)
        policy.learn(watch)
        assert not handed_over


def test_without_a_target_nothing_is_remembered(tmp_path: Path) -> None:
    policy = LocalPolicy(PolicySettings(), CARD, data_dir=tmp_path)
    for _ in range(30):
        policy.learn(_answer(policy, 0.1)[0])
    policy.close()
    assert not (tmp_path / "scores").exists()
    assert fingerprint(CARD) == fingerprint(msgspec.structs.replace(CARD, name="x"))


def test_a_rule_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    settings = PolicySettings(rules=(Rule(name="bad", pattern="("),))
    with pytest.raises(InvalidRequest):
        LocalPolicy(settings, CARD, data_dir=tmp_path)
