"""Breaks the lines of a stream of text between words, at the width of a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_TAB = 8


class WordWrap:
    """What goes to a terminal whose cursor stands at the start of a line.

    A word is shown as it grows. One that does not fit is taken off its line and put on the next
    one. *n_columns* says how wide the terminal is now.
    """

    def __init__(self, n_columns: Callable[[], int]) -> None:
        self._n_columns = n_columns
        self._column = 0
        self._word = ""
        self._word_width = 0

    def feed(self, text: str) -> str:
        """*text* with line breaks, and with what takes the last word off its line."""
        # A terminal whose last column is filled is in doubt where its cursor stands.
        most = max(self._n_columns() - 1, 2)
        return "".join(self._shown(char, most) for char in text)

    def _shown(self, char: str, most: int) -> str:
        if char == "\n":
            self._begin_word()
            self._column = 0
            return char
        width = _TAB - self._column % _TAB if char == "\t" else _width(char)
        if char in " \t":
            self._begin_word()
            if self._column + width > most:
                self._column = most  # the next word begins a line, but a newline may come first
                return ""
            self._column += width
            return char
        before = self._next_line() if self._column + width > most else ""
        if width > 1:  # a line may be broken before and after each Chinese character
            self._begin_word()
        else:
            self._word += char
            self._word_width += width
        self._column += width
        return before + char

    def _begin_word(self) -> None:
        self._word, self._word_width = "", 0

    def _next_line(self) -> str:
        """What begins a new line with the word that does not fit; one that is longer than a line
        is cut."""
        if self._word_width == self._column:
            self._begin_word()
        self._column = self._word_width
        return "\b" * self._word_width + "\x1b[K" * bool(self._word) + "\n" + self._word


def _width(char: str) -> int:
    """The columns that *char* takes: Unicode Standard Annex 11, and none for combining marks."""
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
