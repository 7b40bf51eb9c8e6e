"""The end of a text that may be the beginning of something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.text.partial_match import PartialMatch

STRINGS = st.lists(st.text("ab<", min_size=1, max_size=5), max_size=4)


@given(STRINGS, st.text("ab<", max_size=12))
def test_the_longest_end_that_begins_a_string_is_found(strings: list[str], text: str) -> None:
    ends = [
        n
        for n in range(1, len(text) + 1)
        if any(string.startswith(text[-n:]) for string in strings)
    ]
    assert PartialMatch(strings).n_at_end(text) == max(ends, default=0)
