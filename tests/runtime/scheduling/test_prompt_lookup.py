"""What followed the same tokens before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.scheduling.drafts.prompt_lookup import LONGEST, SHORTEST, PromptLookup
from tests.runtime.scheduling.speculating import text


@given(st.lists(st.integers(0, 5), max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_what_is_found_stood_in_the_text_behind_the_same_tokens(
    values: list[int], cuts: list[int]
) -> None:
    tokens, lookup = text(values), PromptLookup()
    for cut in sorted(cuts):
        lookup.extend(tokens[:cut])
    lookup.extend(tokens)
    n_matched, found = lookup.find(tokens, 6)
    if n_matched:
        assert SHORTEST <= n_matched <= LONGEST
        ends = [
            end for end in range(n_matched, len(values))
            if values[end - n_matched : end] == values[-n_matched:]
        ]  # fmt: skip
        assert any(found == ((values[end:]) * 6)[:6] for end in ends)
    else:
        assert found == []


def test_the_longest_match_counts_and_of_those_the_last() -> None:
    tokens = text([1, 2, 3, 4, 50, 9, 1, 2, 3, 4, 60, 9, 7, 3, 4, 70, 9, 1, 2, 3, 4])
    lookup = PromptLookup()
    lookup.extend(tokens)
    assert lookup.find(tokens, 3) == (4, [60, 9, 7])


def test_a_text_that_repeats_itself_goes_on_so() -> None:
    tokens = text([5, 1, 2, 3, 1, 2, 3, 1, 2])
    lookup = PromptLookup()
    lookup.extend(tokens)
    assert lookup.find(tokens, 7) == (4, [3, 1, 2, 3, 1, 2, 3])


@pytest.mark.parametrize("at_once", [True, False])
def test_a_repeated_passage_is_found_in_a_long_text(*, at_once: bool) -> None:
    before = np.random.default_rng(1).integers(0, 400, 3000)
    tokens = text([*before.tolist(), *before[1000:1300].tolist()])
    lookup = PromptLookup()
    n_right = 0
    for n in range(3000 if at_once else 1, 3280):
        lookup.extend(tokens[:n])
        if n > 3010:
            n_right += lookup.find(tokens[:n], 8) == (4, tokens[n : n + 8].tolist())
    assert n_right > 240


def test_a_text_too_short_for_a_match_has_none() -> None:
    for n in range(LONGEST):
        lookup = PromptLookup()
        lookup.extend(text([1] * n))
        assert lookup.find(text([1] * n), 4) == (0, [])


def test_drafts_are_judged_by_what_comes_whether_they_are_checked_or_not() -> None:
    parts = [3, 1, 4, 1, 5, 9, 2, 6]
    drafter = Drafter()
    drafter.follow(text(parts * 2))
    before = drafter.rate
    for n in range(1, 9):
        drafter.follow(text(parts * 2 + parts[:n]))
    after = drafter.rate
    assert after > before
    drafter.follow(text(parts * 3 + [77]))
    drafter.follow(text(parts * 3 + [77] + parts))
    assert drafter.draft[:8] in ([77, *parts[:7]], parts)
    assert drafter.rate < after
