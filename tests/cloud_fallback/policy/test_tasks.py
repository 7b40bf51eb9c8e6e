"""What a prompt asks for, and sums that do not hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.doubt import Doubt
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.text.tasks import Task, has_wrong_sum


@pytest.mark.parametrize(
    ("prompt", "kinds"),
    [
        ("What is 17 * 4?", {"asks_number"}),
        ("How many grams are in a kilogram?", {"asks_number"}),
        ("Write a Python function that adds two numbers.", {"asks_code"}),
        ("How do you say 'water' in German?", {"asks_translation"}),
        ("Say only the word hello.", {"asks_brevity"}),
        ("Give me a numbered list of fruits.", {"asks_form"}),
        ("Who wrote Hamlet?", set()),
        ("", set()),
    ],
)
def test_the_kind_of_a_task_is_told_by_its_words(prompt: str, kinds: set[str]) -> None:
    found = Task(prompt).features()
    assert {name for name, value in found.items() if name.startswith("asks") and value} == kinds


@given(
    a=st.integers(0, 9_999),
    b=st.integers(1, 9_999),
    off=st.integers(-9, 9),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=9),
)
def test_a_wrong_sum_is_seen_however_it_is_cut_and_a_right_one_never(
    a: int, b: int, off: int, cuts: list[int]
) -> None:
    off *= 1 + (a + b) // 50  # far beyond rounding
    task = Task("")
    text = f"First, {a:,} + {b} = {max(a + b + off, 0)}, so that is it."
    seen = ""
    for i in range(len(text)):
        piece = text[len(seen) :][: cuts[i % len(cuts)]]
        seen += piece
        task.feed(piece, seen.__str__)
    assert bool(task.features()["wrong_sum"]) == (max(a + b + off, 0) != a + b)


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ("10 / 4 = 2.5.", False),
        ("100 / 3 = 33.33 or so", False),
        ("6 x 7 = 42\n", False),
        ("1 + 2 + 3 = 6, of course", False),
        ("2 + 3 * 4 = 14, of course", False),
        ("(4 + 6) * 3 = 30, of course", False),
        ("2 x (3 + 4) = 14, of course", False),
        ("1,200 - 200 = 1,000 euros", False),
        ("20% of 50 = 10, of course", False),
        ("3 apples + 4 apples = 7 apples", False),
        ("1/2 + 1/4 = 3/4, of course", False),
        ("1/2 = 2/4, of course", False),
        ("3 - 5 = -2, of course", False),
        ("5 \N{MULTIPLICATION SIGN} 6 = 35 or so", True),
        ("8 / 0 = 0, they say", True),
        ("x = 4, and y = 5", False),
        ("7 - 2 = 4 apples", True),
    ],
)
def test_equations(text: str, is_wrong: bool) -> None:
    assert has_wrong_sum(text) is is_wrong


def test_the_more_is_shown_the_surer_a_handoff_must_be() -> None:
    doubt = Doubt(PolicySettings())
    needed = [doubt.needed(n) for n in (0, 100, 500, 5_000)]
    assert needed[0] == pytest.approx(doubt.enter)
    assert needed == sorted(needed)
    assert needed[-1] < 1.0
