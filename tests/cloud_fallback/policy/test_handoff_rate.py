"""The handoff-rate target: a threshold that follows this device's own answers."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.calibration import write_calibration
from spillover.cloud_fallback.policy.handoff_rate import N_FIRST, SPAN, HandoffRate
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.errors import InvalidRequest
from tests.cloud_fallback.policy.answers import FakeClock, asked, finished, prose, token
from tests.cloud_fallback.policy.calibrations import CARD, calibration


def test_the_first_threshold_is_cautious_and_then_a_quantile(tmp_path: Path) -> None:
    rate = HandoffRate("m", 0.2, tmp_path)
    for i in range(N_FIRST):
        assert rate.threshold() == pytest.approx(0.9)
        rate.add(i / N_FIRST, is_doubtful=False, taken=False)
    assert rate.threshold() == pytest.approx(0.7)


def test_each_answer_moves_the_threshold_against_the_rate(tmp_path: Path) -> None:
    rate = begun(HandoffRate("m", 0.1, tmp_path))
    start = rate.threshold()
    rate.add(None, is_doubtful=True, taken=False)
    assert rate.threshold() > start
    for _ in range(7):
        rate.add(float("nan"), is_doubtful=False, taken=False)
    assert rate.threshold() == pytest.approx(start)


@given(
    target=st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9]),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=200),
)
def test_no_stretch_of_answers_exceeds_the_rate_however_many_run_at_once(
    target: float, steps: list[tuple[bool, int]]
) -> None:
    """Each step begins an answer that is doubtful or not, and ends some of those that run."""
    with tempfile.TemporaryDirectory() as folder:
        rate = HandoffRate("m", target, Path(folder))
        running: list[bool] = []
        ended: list[bool] = []
        for is_doubtful, n_end in [*steps, (False, len(steps))]:
            running.append(is_doubtful and rate.take())
            for taken in running[:n_end]:
                rate.add(0.9, is_doubtful=taken, taken=taken)
                ended.append(taken)
            running = running[n_end:]
    assert all(sum(ended[:n]) <= target * n + 1e-6 for n in range(len(ended) + 1))
    starts = range(len(ended) - SPAN + 1)
    assert all(sum(ended[i : i + SPAN]) <= max(target * SPAN, 1) for i in starts)


def test_another_target_begins_anew(tmp_path: Path) -> None:
    begun(HandoffRate("m", 0.1, tmp_path)).flush()
    assert HandoffRate("m", 0.5, tmp_path).threshold() == pytest.approx(0.75)


def test_a_threshold_that_cannot_fall_further_rises_at_once(tmp_path: Path) -> None:
    rate = begun(HandoffRate("m", 0.1, tmp_path, least=0.45))
    for _ in range(1_000):
        rate.add(0.1, is_doubtful=False, taken=False)
    assert rate.threshold() == pytest.approx(0.45)


def begun(rate: HandoffRate) -> HandoffRate:
    for i in range(N_FIRST):
        rate.add(i / N_FIRST, is_doubtful=False, taken=False)
    return rate


def test_threshold_and_count_outlive_the_process_and_damage(tmp_path: Path) -> None:
    rate = begun(HandoffRate("m", 0.1, tmp_path))
    assert rate.take()
    assert rate.take()
    assert not rate.take()
    rate.add(0.9, is_doubtful=True, taken=True)
    again = HandoffRate("m", 0.1, tmp_path)  # the first process was killed
    assert again.threshold() == rate.threshold()
    assert again.take()
    assert not again.take()
    [path] = (tmp_path / "handoff-rates").iterdir()
    for content in (b'{"target": ', b'{"target": 0.1, "odds": -1e9}', b'{"scores": [7]}'):
        path.write_bytes(content)
        fresh = HandoffRate("m", 0.1, tmp_path)
        assert fresh.threshold() == pytest.approx(0.95)
        assert not fresh.take()
        assert not path.exists()


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "handoff-rates").write_text("a file where a folder should be")
    rate = begun(HandoffRate("m", 0.1, tmp_path))
    rate.flush()
    assert rate.take()


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
def test_the_rate_comes_near_its_target_from_below_on_any_device(
    tmp_path: Path, target: float
) -> None:
    """Two devices: one whose model is never sure of anything, one that is nearly always."""
    for scale in (0.2, 1.0):
        settings = PolicySettings(handoff_rate_target=target)
        policy = LocalPolicy(settings, CARD, data_dir=tmp_path / str(scale))
        rng = random.Random(7)
        handed: list[bool] = []
        for _ in range(450):
            watch, handed_over = _answer(policy, scale * rng.random())
            watch.learn()
            handed.append(handed_over)
            assert sum(handed) <= target * len(handed)
        assert sum(handed[150:]) / 300 > 0.6 * target


def test_the_owners_rate_counts_every_fault_of_the_answer(tmp_path: Path) -> None:
    policy = LocalPolicy(PolicySettings(handoff_rate_target=0.25), CARD, data_dir=tmp_path)
    handed = []
    for _ in range(20):
        watch = policy.watch(asked(), clock=FakeClock(), on_trigger=lambda reason: None)
        handed_over = watch.see(token("I'm sorry, but I can't help with that.")) == "handoff"
        watch.learn()
        handed.append(handed_over)
    assert sum(handed) == 5
    assert not any(handed[:3])


def test_an_answer_that_may_not_be_handed_over_is_no_longer_held_back(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path)
    policy = LocalPolicy(PolicySettings(handoff_rate_target=0.1), CARD, data_dir=tmp_path)
    watch = policy.watch(asked(), clock=FakeClock(), on_trigger=lambda reason: None)
    verdicts = [watch.see(delta) for delta in prose(80, logprob=-20)]
    assert watch.is_doubtful
    assert "handoff" not in verdicts
    assert set(verdicts[40:]) == {"pass"}


def test_without_a_rate_low_confidence_takes_half_at_most_and_refusals_all(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path)
    policy = LocalPolicy(PolicySettings(), CARD, data_dir=tmp_path)
    handed = []
    for _ in range(120):
        watch, handed_over = _answer(policy, 2.0)
        watch.learn()
        handed.append(handed_over)
    assert handed[0]
    assert sum(handed) <= 60 + SPAN // 2
    assert max(sum(handed[i : i + SPAN]) for i in range(80)) <= SPAN // 2
    for _ in range(8):
        watch = policy.watch(asked(), clock=FakeClock(), on_trigger=lambda reason: None)
        assert watch.see(token("I'm sorry, but I can't help with that.")) == "handoff"
        watch.learn()


def test_without_a_rate_a_model_that_no_calibration_has_seen_keeps_nine_of_ten(
    tmp_path: Path,
) -> None:
    """It used to lose half of its answers where the pooled calibration took it for a worse one."""
    policy = LocalPolicy(PolicySettings(), CARD, data_dir=tmp_path)
    handed = []
    for _ in range(120):
        watch, handed_over = _answer(policy, 2.0)
        watch.learn()
        handed.append(handed_over)
    assert not any(handed[:9])
    assert 3 <= sum(handed) <= 12
    watch = policy.watch(asked(), clock=FakeClock(), on_trigger=lambda reason: None)
    assert watch.see(token("I'm sorry, but I can't help with that.")) == "handoff"


def test_a_calibrated_model_keeps_answers_that_are_probably_right(tmp_path: Path) -> None:
    write_calibration(calibration(bias=-6.0), tmp_path)
    settings = PolicySettings(handoff_rate_target=0.5)
    policy = LocalPolicy(settings, CARD, data_dir=tmp_path)
    assert policy.local.calibration is not None
    for _ in range(40):
        watch, handed_over = _answer(policy, 0.01)
        watch.learn()
        assert not handed_over


def test_an_invalid_rule_is_refused_at_once(tmp_path: Path) -> None:
    settings = PolicySettings(rules=(PromptRule(name="bad", pattern="("),))
    with pytest.raises(InvalidRequest):
        LocalPolicy(settings, CARD, data_dir=tmp_path)
