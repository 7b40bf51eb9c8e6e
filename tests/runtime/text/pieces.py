"""A text in pieces, as it comes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

CUTS = st.lists(st.integers(0, 10_000), max_size=30)


def chunks(text: str, cuts: list[int]) -> list[str]:
    """*text* cut at some of its places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]
