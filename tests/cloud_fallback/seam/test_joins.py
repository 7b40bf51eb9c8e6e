"""Wherever an answer is cut and however the new text comes in, the joined text is the answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.seam.continuation import Continuation
from tests.cloud_fallback.seam.corpus import ALL, ECHOES, PREAMBLES, SIZES, Client, cuts, planned


def echo_of(plan: Continuation, answer: str, echo: Callable[[str], str], preamble: str) -> str:
    """The anchor, as a model repeats it, and the rest; the answer where no anchor was asked for."""
    if plan.join in ("fresh", "restart"):
        return answer
    return preamble + echo(plan.anchor) + answer[len(plan.shown) :]


@pytest.mark.parametrize("echo", ECHOES, ids=lambda echo: echo.__name__)
@given(cuts(), st.sampled_from(PREAMBLES), SIZES, st.booleans())
def test_an_echoed_anchor_joins_the_answer(
    echo: Callable[[str], str], cut: tuple[str, int], preamble: str, sizes: list[int], replace: bool
) -> None:
    answer, at = cut
    plan = planned(answer, at, can_replace=replace)
    client = Client(plan, answer[:at])
    assert client.read(echo_of(plan, answer, echo, preamble), sizes) == answer
    assert client.n_replaced == 0


@given(cuts(), st.sampled_from(ECHOES), st.sampled_from(PREAMBLES), SIZES)
def test_a_restart_joins_the_answer(
    cut: tuple[str, int], echo: Callable[[str], str], preamble: str, sizes: list[int]
) -> None:
    answer, at = cut
    plan = planned(answer, at)
    client = Client(plan, answer[:at])
    is_fresh = plan.join in ("fresh", "restart")
    cloud = answer if is_fresh else preamble + echo(plan.shown) + answer[len(plan.shown) :]
    assert client.read(cloud, sizes) == answer


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_cut_of_every_text_is_joined(name: str) -> None:
    answer = ALL[name]
    for at in range(len(answer) + 1):
        plan = planned(answer, at)
        client = Client(plan, answer[:at])
        assert client.read(echo_of(plan, answer, str, ""), [3]) == answer
        assert Client(plan, answer[:at]).read(answer, [5]) == answer
