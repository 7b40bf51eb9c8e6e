"""Sliding statistics are those of the last values, whatever came before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.confidence import Confidence
from spillover.cloud_fallback.policy.windows import MeanWindow, SortedWindow
from spillover.runtime.events import TokenLogprob, TopLogprob

VALUES = st.lists(st.floats(-30, 0, allow_nan=False), min_size=1, max_size=200)


@given(values=VALUES, size=st.integers(1, 70), share=st.floats(0, 1))
def test_a_window_knows_the_last_values_only(values: list[float], size: int, share: float) -> None:
    window, means = SortedWindow(size), MeanWindow(size)
    for value in values:
        window.push(value)
        means.push(value)
    last = sorted(values[-size:])
    assert len(window) == len(last)
    assert window.lowest == last[0]
    assert window.mean == pytest.approx(math.fsum(last) / len(last), abs=1e-9)
    assert means.mean == pytest.approx(window.mean, abs=1e-9)
    assert window.quantile(share) == last[int(share * (len(last) - 1) + 0.5)]
    assert window.share_below(-1.0) == sum(value < -1.0 for value in last) / len(last)


def test_an_empty_window_says_nothing_bad() -> None:
    window = SortedWindow(4)
    assert (window.mean, window.lowest, window.quantile(0.1), window.share_below(-1)) == (0,) * 4


def lp(logprob: float, runner_up: float = -5.0, entropy: float = 0.5) -> TokenLogprob:
    top = (
        TopLogprob(token_id=1, token=b"a", logprob=logprob),
        TopLogprob(token_id=2, token=b"b", logprob=runner_up),
    )
    return TokenLogprob(token_id=1, token=b"a", logprob=logprob, entropy=entropy, top=top)


def test_numbers_that_are_none_are_left_out() -> None:
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
