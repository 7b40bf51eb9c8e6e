"""Where a call begins in a text, with as little held back as can be."""

from __future__ import annotations

_MAX_HELD_BLANKS = 64
BLANKS = " \t\r\n"


class OpeningFinder:
    """Holds back the white space before an opening, and what may be its beginning.

    *may_be_bare*: the brace of a JSON object opens a call too, at the beginning of the answer.
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
        """Whether nothing of *text* can belong to a call."""
        return (
            not (self.held or self._is_at_start)
            and self._opening[0] not in text
            and text[-1] not in BLANKS
        )

    def feed(self, character: str) -> str:
        """The text that *character* settles."""
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
        """The end of what is held that may still belong to an opening."""
        held = self.held
        for start in range(1, len(held)):
            tail = held[start:].lstrip(BLANKS)
            if not tail or self._opening.startswith(tail):
                return held[start:] if len(held) - start <= _MAX_HELD_BLANKS else ""
        return ""

    def take(self) -> str:
        """What is held; nothing is then."""
        held, self.held = self.held, ""
        self._is_at_start = self._is_at_start and not held
        return held
