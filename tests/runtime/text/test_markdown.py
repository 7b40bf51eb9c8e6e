"""Code blocks, followed as the text grows or read at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.text.markdown import Fences, open_fence
from tests.runtime.text.pieces import CUTS, chunks


@given(CUTS)
def test_fences_are_followed_under_any_chunking(cuts: list[int]) -> None:
    text = "Look:\n```python\nx = '```'\nprint(x)\n  ```\nDone. ``` is a fence.\n~~~\na\n~~~\nEnd"
    fences = Fences()
    seen: dict[int, tuple[bool, bool]] = {}
    at = 0
    for chunk in chunks(text, cuts):
        fences.feed(chunk)
        at += len(chunk)
        seen[at] = (fences.inside, fences.on_fence_line)
    whole = Fences()
    for place, char in enumerate(text, 1):
        whole.feed(char)
        if place in seen:
            assert seen[place] == (whole.inside, whole.on_fence_line)
    assert seen[len(text)] == (False, False)


LINES = st.sampled_from(["```", "````", "~~~", "```py", "> ```", "text", "a ``` b", "", "   ~~~ "])


@given(st.lists(LINES, max_size=12), CUTS)
def test_both_readers_see_the_same_blocks(lines: list[str], cuts: list[int]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    fences = Fences()
    for chunk in chunks(text, cuts):
        fences.feed(chunk)
    assert fences.inside == (open_fence(text) is not None)


def test_a_block_is_closed_by_its_own_kind_of_fence() -> None:
    fences = Fences()
    fences.feed("````\n```\n~~~\nx\n")
    assert fences.inside
    fences.feed("````\n")
    assert not fences.inside
