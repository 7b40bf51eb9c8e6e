"""The handoff-rate target: a threshold that follows this device's own answers."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from spillover.cloud_fallback.policy.calibration import fingerprint, write_calibration
from spillover.cloud_fallback.policy.handoff_rate import N_FIRST, HandoffRate
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.errors import InvalidRequest
from tests.cloud_fallback.policy.answers import FakeClock, asked, finished, prose
from tests.cloud_fallback.policy.test_calibration import CARD, calibration


def test_the_first_threshold_is_a_quantile_of_the_first_answers(tmp_path: Path) -> None:
    rate = HandoffRate("m", 0.1, tmp_path)
    for i in range(N_FIRST):
        assert rate.threshold() is None
        rate.add(i / N_FIRST, handed_over=False)
    assert rate.threshold() == pytest.approx(0.85)


def test_each_answer_moves_the_threshold_against_the_rate(tmp_path: Path) -> None:
    rate = begun(HandoffRate("m", 0.1, tmp_path))
    start = rate.threshold()
    assert start is not None
    rate.add(None, handed_over=True)
    up = rate.threshold()
    assert up is not None
    assert up > start
    for _ in range(9):
        rate.add(float("nan"), handed_over=False)
    assert rate.threshold() == pytest.approx(start)


def test_another_target_begins_anew_from_the_last_answers(tmp_path: Path) -> None:
    begun(HandoffRate("m", 0.1, tmp_path)).flush()
    assert HandoffRate("m", 0.5, tmp_path).threshold() == pytest.approx(0.5, abs=0.05)
    low = HandoffRate("m", 0.9, tmp_path).threshold()
    high = HandoffRate("m", 0.1, tmp_path).threshold()
    assert low is not None
    assert high is not None
    assert low < 0.2 < 0.8 < high


def test_a_threshold_that_cannot_fall_further_rises_at_once(tmp_path: Path) -> None:
    rate = begun(HandoffRate("m", 0.1, tmp_path, least=0.45))
    for _ in range(1_000):
        rate.add(0.1, handed_over=False)
    assert rate.threshold() == pytest.approx(0.45)


def begun(rate: HandoffRate) -> HandoffRate:
    for i in range(N_FIRST):
        rate.add(i / N_FIRST, handed_over=False)
    return rate


def test_the_threshold_outlives_the_process_and_damage(tmp_path: Path) -> None:
    rate = begun(HandoffRate("m", 0.1, tmp_path))
    rate.flush()
    again = HandoffRate("m", 0.1, tmp_path)
    assert again.threshold() == rate.threshold()
    [path] = (tmp_path / "handoff-rates").iterdir()
    for content in (b'{"target": ', b'{"target": 0.1, "odds": -1e9}', b'{"scores": [7]}'):
        path.write_bytes(content)
        assert HandoffRate("m", 0.1, tmp_path).threshold() is None
        assert not path.exists()


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "handoff-rates").write_text("a file where a folder should be")
    rate = begun(HandoffRate("m", 0.1, tmp_path))
    rate.flush()
    assert rate.threshold() is not None


def _answer(policy: LocalPolicy, doubt: float) -> tuple[Watch, bool]:
    """One answer in which the model's mean logprob is -10 * doubt after a good start."""
    clock, triggers = FakeClock(), list[Reason]()
    watch = policy.watch(asked(), clock=clock, on_trigger=triggers.append)
    for delta in prose(8) + prose(24, 8, logprob=-10 * doubt):
        clock.pass_s(0.02)
        if watch.see(delta) == "handoff":
            return watch, True
    return watch, watch.finished(finished(n=32)) is not None


@pytest.mark.parametrize("target", [0.1, 0.5])
def test_the_rate_comes_near_its_target_on_any_device(tmp_path: Path, target: float) -> None:
    """Two devices: one whose model is never sure of anything, one that is nearly always."""
    for scale in (0.2, 1.0):
        settings = PolicySettings(handoff_rate_target=target)
        policy = LocalPolicy(settings, CARD, data_dir=tmp_path / str(scale))
        rng = random.Random(7)
        given = []
        for _ in range(450):
            watch, handed_over = _answer(policy, scale * rng.random())
            policy.learn(watch)
            given.append(handed_over)
        rate = sum(given[150:]) / 300
        assert abs(rate - target) < 0.08


def test_a_calibrated_model_keeps_answers_that_are_probably_right(tmp_path: Path) -> None:
    write_calibration(calibration(bias=-6.0), tmp_path)
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
    assert not (tmp_path / "handoff-rates").exists()
    assert fingerprint(CARD) == fingerprint(msgspec.structs.replace(CARD, name="x"))


def test_an_invalid_rule_is_refused_at_once(tmp_path: Path) -> None:
    settings = PolicySettings(rules=(PromptRule(name="bad", pattern="("),))
    with pytest.raises(InvalidRequest):
        LocalPolicy(settings, CARD, data_dir=tmp_path)
