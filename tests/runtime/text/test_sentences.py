"""Where a text may be left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.text.graphemes import is_boundary
from spillover.runtime.text.sentences import boundaries, good_boundary, sentence_end
from tests.cloud_fallback.seam.corpus import ALL

TEXTS = st.sampled_from(sorted(ALL)).map(ALL.__getitem__) | st.text(max_size=60)


@pytest.mark.parametrize(
    "text",
    [
        "It rains.| Dr. Badger, e.g. Mr. B. Brock, paid 3.50 on p. 12 in 2024.| Really?!| “Yes.”|",
        "(No.)| *Well…*| Yes.|",
        "# Title|\n\n1. One|\n2. Two.| More.|\n   - nested|\n\nend.|",
        "See www.example.org or example.com for v1.2.3 of it.| Done!|",
        "今天天气很好。|我们去公园散步吧！|“你好。”|他说：“世界。”|",  # noqa: RUF001
        "هل كان يومًا مشمسًا؟| لا.|",
        "यह अच्छा है।| बहुत अच्छा।|",
        "Code:|\n```python|\nx = 1. + 2.|\nprint(x).|\n```|\nDone.|",
    ],
)
def test_sentences_and_lines_end_here(text: str) -> None:
    bare, ends, n = "", [], 0
    for part in text.split("|"):
        bare += part
        n += len(part)
        ends.append(n)
    assert list(boundaries(bare)) == ends[:-1]


def test_a_full_stop_ends_a_sentence_once_something_comes_after_it() -> None:
    assert sentence_end("It is 3.") is None
    assert sentence_end("It is red.") is None
    assert sentence_end("It is red. ") == len("It is red.")
    assert sentence_end("It is red.\n") == len("It is red.")
    assert sentence_end("他说。") is None
    assert sentence_end("他说。他") == 3


@given(TEXTS, st.integers(0, 300))
def test_a_good_boundary_keeps_no_more_than_it_may(text: str, keep: int) -> None:
    at = good_boundary(text, keep)
    assert 0 <= at <= min(keep, len(text))
    assert is_boundary(text, at)
    assert good_boundary(text, at) == at


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Thr", "One. Two."),
        ("- one\n- two\n- thr", "- one\n- two"),
        ("| a | b |\n| c | d |\n| e ", "| a | b |\n| c | d |"),
        ("```\nx = 1\ny = 2.5\nz", "```\nx = 1\ny = 2.5"),
        ("the the the the th", "the the the the"),
        ("Unbroken", "Unbroken"),
        ("word " * 200 + "la", ("word " * 200).strip() + " la"),
    ],
)
def test_text_is_rolled_back_to_a_whole_sentence_item_or_line(text: str, kept: str) -> None:
    at = good_boundary(text, len(text) - 1 if "the" in text else None)
    assert text[:at] == kept


def test_a_word_that_continues_is_not_kept() -> None:
    assert good_boundary("the quick brown", 12) == len("the quick")
    assert good_boundary("Unbroken", 4) == 0
