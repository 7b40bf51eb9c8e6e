"""What a reader sees as one character is never cut."""

from __future__ import annotations

import pytest

from spillover.runtime.text.graphemes import boundary_before, is_boundary, n_unfinished
from tests.cloud_fallback.seam.corpus import EMOJI


def test_characters_are_never_split() -> None:
    family = "👨‍👩‍👧‍👦"
    at = EMOJI.index(family)
    assert not any(is_boundary(EMOJI, at + n) for n in range(1, len(family)))
    assert is_boundary(EMOJI, at + len(family))
    assert boundary_before(EMOJI, at + 3) == at
    assert not is_boundary("🇩🇪🇫🇷", 1)
    assert is_boundary("🇩🇪🇫🇷", 2)
    assert not is_boundary("\r\n", 1)
    assert not is_boundary("e\u0301", 1)


@pytest.mark.parametrize(
    ("text", "n"),
    [("", 0), ("a", 0), ("👨\u200d", 1), ("🇩", 1), ("🇩🇪", 0), ("🇩🇪🇫", 1), ("\ud83d", 1)],
)
def test_half_a_character_waits(text: str, n: int) -> None:
    assert n_unfinished(text) == n
