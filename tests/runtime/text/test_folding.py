"""What counts as the same text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.text.folding import (
    fold,
    n_leading_blank,
    n_trailing_blank,
    raw_length,
    raw_length_from_end,
)


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
