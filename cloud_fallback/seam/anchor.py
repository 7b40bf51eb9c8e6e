"""Chooses the last words that the next writer is asked to repeat."""

from __future__ import annotations

from collections.abc import Iterator

from spillover.cloud_fallback.seam.folding import fold
from spillover.runtime.text.graphemes import boundary_before

MIN_USEFUL_CHARS = 8
"""An answer with fewer visible ones is begun anew: there is nothing to keep."""

SHORTEST_CHARS = 40
LONGEST_WORD_CHARS = 20
"""The anchor begins at a word's start, unless that is further back than this."""

LONGEST_CHARS = 240
MIN_LETTERS = 8

QUOTES = (("«", "»"), ("“", "”"), ("⟦", "⟧"), ("<<<", ">>>"), ("[[[", "]]]"))


def is_worth_keeping(text: str) -> bool:
    """Whether *text*, which does not end in blanks, can be recognised when it is repeated."""
    return len(fold(text[-LONGEST_CHARS:])) >= MIN_USEFUL_CHARS


def anchor_of(text: str) -> str:
    """The end of *text*, of 40 to 60 characters; longer, up to 240, where a shorter one occurs
    elsewhere too, has next to no letters, or would begin inside a number."""
    text = text.rstrip()
    units = fold(text)
    anchor = ""
    for start in _starts(text):
        anchor = text[start:]
        if _is_telling(anchor, units) and not _splits_a_number(text, start):
            break
    return anchor


def _starts(text: str) -> Iterator[int]:
    n = SHORTEST_CHARS
    while n < len(text) and n < LONGEST_CHARS:
        yield (start := _word_start(text, len(text) - n))
        n = max(n + 1, len(text) - start) + 12
    yield _word_start(text, max(0, len(text) - LONGEST_CHARS))


def _word_start(text: str, index: int) -> int:
    """A place at or before *index* where a word begins, or else any non-blank character."""
    while index and text[index].isspace():
        index -= 1
    for start in range(index, max(0, index - LONGEST_WORD_CHARS), -1):
        if text[start - 1].isspace() and not text[start].isspace():
            return start
    if index <= LONGEST_WORD_CHARS:
        index = 0
    start = boundary_before(text, index)
    while text[start].isspace():
        start += 1
    return start


def _is_telling(anchor: str, units: str) -> bool:
    letters = sum(character.isalnum() for character in anchor)
    found = fold(anchor)
    return letters >= MIN_LETTERS and units.find(found) == len(units) - len(found)


def _splits_a_number(text: str, start: int) -> bool:
    """A card's or a phone's number must be seen whole by whoever redacts the request."""
    words = text[max(0, start - 2 * LONGEST_WORD_CHARS) : start].split()
    if not words or not any(map(str.isdigit, words[-1])):
        return False
    return any(map(str.isdigit, text[start : start + 2 * LONGEST_WORD_CHARS].split()[0]))


def quoted(anchor: str) -> str:
    """*anchor* between quotes that do not occur in it."""
    for opening, closing in QUOTES:
        if opening not in anchor and closing not in anchor:
            return f"{opening}{anchor}{closing}"
    return f"\n<fragment>\n{anchor}\n</fragment>\n"
