"""Where a text may be left, and where it must be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.seam.answer_text import VisibleLimit
from spillover.cloud_fallback.seam.folding import (
    fold,
    n_leading_blank,
    n_trailing_blank,
    raw_length,
    raw_length_from_end,
)
from spillover.cloud_fallback.seam.sentences import (
    SentenceFinish,
    boundaries,
    good_boundary,
    sentence_end,
)
from spillover.runtime.text.graphemes import is_boundary
from tests.cloud_fallback.seam.corpus import ALL, pieces_of

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


def test_a_word_that_goes_on_is_not_kept() -> None:
    assert good_boundary("the quick brown", 12) == len("the quick")
    assert good_boundary("Unbroken", 4) == 0


# A sentence finished by the writer that began it --------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_local_model_ends_its_sentence(sizes: list[int]) -> None:
    said, more = "Foxes are small. They", " eat mice, e.g. voles. And they sleep."
    finish = SentenceFinish(said, until=10.0, max_tokens=48)
    text = "".join(finish.feed(piece, 1, 0.0) for piece in pieces_of(more, sizes))
    assert said + text == "Foxes are small. They eat mice, e.g. voles."
    assert finish.is_done


def test_a_sentence_that_is_over_needs_no_more() -> None:
    finish = SentenceFinish("They eat mice.", until=10.0, max_tokens=48)
    assert finish.feed(" And", 1, 0.0) == ""
    assert finish.is_done


@pytest.mark.parametrize(("n_tokens", "now"), [(5, 0.0), (1, 10.0)])
def test_the_grace_is_bounded(n_tokens: int, now: float) -> None:
    finish = SentenceFinish("They", until=10.0, max_tokens=5)
    assert finish.feed(" eat", n_tokens, now) == " eat"
    assert finish.is_done
    assert finish.feed(" mice.", 1, 0.0) == ""


# Characters ---------------------------------------------------------------------------------


@given(st.text(max_size=20), st.text(max_size=20))
def test_text_folds_to_the_same_units_however_it_is_cut(first: str, second: str) -> None:
    assert fold(first + second) == fold(first) + fold(second)


@given(st.text(max_size=30), st.integers(0, 40))
def test_lengths_in_units_become_lengths_in_characters(text: str, n: int) -> None:
    n = min(n, len(fold(text)))
    begin = raw_length(text, n)
    assert len(fold(text[:begin])) >= n
    assert begin == 0 or len(fold(text[: begin - 1])) < n
    end = raw_length_from_end(text, n)
    assert len(fold(text[len(text) - end :])) >= n
    assert end == 0 or len(fold(text[len(text) - end + 1 :])) < n


@given(st.text(max_size=20))
def test_blank_ends_fold_to_nothing(text: str) -> None:
    assert fold(text[: n_leading_blank(text)]) == ""
    assert fold(text[len(text) - n_trailing_blank(text) :]) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It's “so” – well…", 'it’s "so" - well...'),  # noqa: RUF001
        ("café", "cafe\u0301"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("a\r\n\tb", "a b"),
        ("❤️", "❤"),
        ("Straße İ", "STRASSE i\u0307"),
    ],
)
def test_what_counts_as_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)


# Limits -------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.lists(st.integers(1, 9), max_size=4))
def test_an_answer_has_no_more_words_than_tokens(left: int, sizes: list[int]) -> None:
    text = "One two,  three\nfour five. six seven 八九十百千万 nine"
    limit = VisibleLimit(left)
    passed = "".join(limit.feed(piece) for piece in pieces_of(text, sizes))
    assert text.startswith(passed)
    words = re.findall(r"[八九十百千万]|[a-z]+", passed, re.IGNORECASE)
    assert sum(2 if word.isascii() else 1 for word in words) == 2 * min(left, 11)
    assert limit.is_over == (left < 11)


def test_without_a_limit_all_passes() -> None:
    assert VisibleLimit(None).feed("a b c") == "a b c"
