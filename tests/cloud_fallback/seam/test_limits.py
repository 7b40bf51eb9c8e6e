"""Where a writer's part of the answer ends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.seam.limits import SentenceFinish, VisibleLimit
from tests.cloud_fallback.seam.corpus import pieces_of


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_local_model_ends_its_sentence(sizes: list[int]) -> None:
    said, more = "Foxes are small. They", " eat mice, e.g. voles. And they sleep."
    finish = SentenceFinish(said, until=10.0, max_tokens=48)
    text = "".join(finish.feed(piece, 1, 0.0) for piece in pieces_of(more, sizes))
    assert said + text == "Foxes are small. They eat mice, e.g. voles."
    assert finish.is_done


def test_a_complete_sentence_needs_no_more_text() -> None:
    finish = SentenceFinish("They eat mice.", until=10.0, max_tokens=48)
    assert finish.feed(" And", 1, 0.0) == ""
    assert finish.is_done


@pytest.mark.parametrize(("n_tokens", "now"), [(5, 0.0), (1, 10.0)])
def test_the_grace_is_bounded(n_tokens: int, now: float) -> None:
    finish = SentenceFinish("They", until=10.0, max_tokens=5)
    assert finish.feed(" eat", n_tokens, now) == " eat"
    assert finish.is_done
    assert finish.feed(" mice.", 1, 0.0) == ""


def test_a_code_block_that_began_long_ago_still_counts() -> None:
    finish = SentenceFinish("Code:\n```\nx = 1\n", until=10.0, max_tokens=48)
    assert finish.feed("y = 2. And", 1, 0.0) == "y = 2. And"
    assert finish.feed(" more\n", 1, 0.0) == " more"
    assert finish.is_done


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
