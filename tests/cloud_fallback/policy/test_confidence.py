"""What is made of logprobs: that of the last tokens, whatever came before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.confidence import Confidence
from spillover.runtime.events import TokenLogprob, TopLogprob


def lp(logprob: float, runner_up: float = -5.0, entropy: float = 0.5) -> TokenLogprob:
    top = (
        TopLogprob(token_id=1, token=b"a", logprob=logprob),
        TopLogprob(token_id=2, token=b"b", logprob=runner_up),
    )
    return TokenLogprob(token_id=1, token=b"a", logprob=logprob, entropy=entropy, top=top)


@given(values=st.lists(st.floats(-30, 0), min_size=1, max_size=200))
def test_features_are_those_of_the_last_tokens_only(values: list[float]) -> None:
    track = Confidence()
    for value in values:
        track.push(lp(value, runner_up=value - 1.0, entropy=-value))
    found = track.features()
    last, short = sorted(values[-64:]), values[-16:]
    assert found["lowest_64"] == last[0]
    assert found["mean_64"] == pytest.approx(math.fsum(last) / len(last))
    assert found["mean_16"] == pytest.approx(math.fsum(short) / len(short))
    assert found["quantile_10"] == last[int(0.1 * (len(last) - 1) + 0.5)]
    assert found["share_below_1"] == sum(value < -1.0 for value in last) / len(last)
    assert found["share_below_3"] <= found["share_below_1"]
    assert found["entropy_64"] == pytest.approx(-found["mean_64"])
    assert found["margin_16"] == pytest.approx(1.0, abs=1e-9)
    groups = [values[max(i - 15, 0) : i + 1] for i in range(len(values))]
    full = [group for group in groups if len(group) == 16] or groups[-1:]
    means = [sum(min(1.0 - value, 30.0) for value in group) / len(group) for group in full]
    assert found["lowest_group"] == pytest.approx(min(means))
    assert found["log_length"] == math.log1p(len(values))


def test_without_tokens_nothing_is_bad() -> None:
    assert set(Confidence().features().values()) == {0.0}


def test_unknown_numbers_are_left_out() -> None:
    track = Confidence()
    for token in (lp(math.nan), lp(0.5), lp(-1.0, entropy=math.nan), lp(-1.0, entropy=math.inf)):
        track.push(token)
    assert track.n == 0
    track.push(lp(-1e30, runner_up=-1e30))
    assert track.n == 1
    assert all(math.isfinite(value) for value in track.features().values())


def test_the_lowest_group_is_that_of_sixteen_tokens() -> None:
    track = Confidence()
    track.push(lp(-1.0, runner_up=-0.1))
    for _ in range(40):
        track.push(lp(-0.1, runner_up=-8.0))
    sure = track.features()["lowest_group"]
    assert sure == pytest.approx((0.1 + 15 * 8.0) / 16)
    for _ in range(16):
        track.push(lp(-1.5, runner_up=-1.0))
    for _ in range(40):
        track.push(lp(-0.1, runner_up=-8.0))
    assert track.features()["lowest_group"] == pytest.approx(1.0)


def test_the_slope_falls_when_the_model_gets_unsure() -> None:
    track = Confidence()
    for _ in range(64):
        track.push(lp(-0.1))
    assert track.features()["slope"] == pytest.approx(0.0, abs=1e-9)
    for _ in range(8):
        track.push(lp(-4.0))
    assert track.features()["slope"] < -1.0
