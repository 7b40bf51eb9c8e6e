"""Finds where a tool call begins in a text, and holds back as little as possible."""

from __future__ import annotations

_MAX_HELD_BLANKS = 64
BLANKS = " \t\r\n"


class OpeningFinder:
    """Holds back what may begin an opening, and the white space before it.

    *may_be_bare*: at the beginning of the answer, a brace opens a call too.
    """

    def __init__(self, opening: str, *, may_be_bare: bool) -> None:
        self._opening = opening
        self._may_be_bare = may_be_bare
        self._is_at_start = True
        self.held = ""

    @property
    def has_opened(self) -> bool:
        """Whether *held* ends with an opening."""
        rest = self.held.lstrip(BLANKS)
        return rest == self._opening or (self._may_be_bare and self._is_at_start and rest == "{")

    def is_plain(self, text: str) -> bool:
        """Whether no part of *text* can belong to a call."""
        return (
            not (self.held or self._is_at_start)
            and self._opening[0] not in text
            and text[-1] not in BLANKS
        )

    def feed(self, character: str) -> str:
        """The text that *character* shows to be plain."""
        self.held += character
        rest = self.held.lstrip(BLANKS)
        if self.has_opened or (rest and self._opening.startswith(rest)):
            return ""
        if not rest and len(self.held) <= _MAX_HELD_BLANKS:
            return ""
        self._is_at_start = False
        held, self.held = self.held, self._open_end()
        return held[: len(held) - len(self.held)]

    def _open_end(self) -> str:
        """The end of the held text that may still belong to an opening."""
        held = self.held
        for start in range(1, len(held)):
            tail = held[start:].lstrip(BLANKS)
            if not tail or self._opening.startswith(tail):
                return held[start:] if len(held) - start <= _MAX_HELD_BLANKS else ""
        return ""

    def take(self) -> str:
        """Give up the held text."""
        held, self.held = self.held, ""
        self._is_at_start = self._is_at_start and not held
        return held
