"""Finds texts again that are known to be private, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import re2

MIN_CHARS = 6
"""Shorter texts, such as the password "abc1", are words of other texts by chance."""
SURE_CHARS = 12
"""A longer text is meant even within a word."""
_MAX_MEMORY_BYTES = 1 << 26


class KnownTexts:
    """Matches any of *texts*, the longest at each place. Linear in the length of the text."""

    def __init__(self, texts: Iterable[str]) -> None:
        texts = [text for text in texts if len(text) >= MIN_CHARS]
        options = re2.Options()
        options.max_mem = _MAX_MEMORY_BYTES
        options.longest_match = True
        options.log_errors = False
        self._pattern: Any = (
            re2.compile("|".join(map(re2.escape, texts)), options) if texts else None
        )

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        if self._pattern is None:
            return
        for match in self._pattern.finditer(text):
            start, end = match.span()
            if end - start >= SURE_CHARS or _stands_alone(text, start, end):
                yield start, end


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (
        (text[start].isalnum() and text[start - 1 : start].isalnum())
        or (text[end - 1].isalnum() and text[end : end + 1].isalnum())
    )
