"""Finds a chat template's control tokens written out in an answer."""

from __future__ import annotations

import re

from spillover.runtime.text.partial_match import PartialMatch
from spillover.runtime.text.template_tags import TURN_HEADINGS, TURN_TAGS

_MARKERS = TURN_TAGS + TURN_HEADINGS
_FIRST = re.compile("[" + re.escape("".join(sorted({marker[0] for marker in _MARKERS}))) + "]")
_ANY = re.compile("|".join(map(re.escape, _MARKERS)))


class Leaks:
    """Follows the text as it grows. Markers that the conversation itself mentions are allowed."""

    __slots__ = ("_allowed", "_open", "_partial", "_start", "found_at")

    def __init__(self, conversation: str) -> None:
        self._allowed = frozenset(m for m in _MARKERS if m.strip() in conversation)
        self._partial = PartialMatch(m for m in _MARKERS if m not in self._allowed)
        self.found_at: int | None = None
        """Where the first marker begins in the text."""
        self._open = ""
        """The end of the text, from the possible beginning of a marker."""
        self._start = 0
        """Where *_open* begins in the text."""

    @property
    def is_open(self) -> bool:
        """Whether the text ends with the beginning of a marker."""
        return len(self._open) > 1

    def feed(self, text: str, start_char: int) -> None:
        """Take text that begins at *start_char* of the answer."""
        if self.found_at is not None:
            return
        if not self._open:
            first = _FIRST.search(text)
            if first is None:
                return
            self._start = start_char + first.start()
            self._open = text[first.start() :]
        else:
            self._open += text
        self._look()

    def _look(self) -> None:
        for match in _ANY.finditer(self._open):
            if match.group() not in self._allowed:
                self.found_at = self._start + match.start()
                return
        n_done = len(self._open) - self._partial.n_at_end(self._open)
        self._start += n_done
        self._open = self._open[n_done:]
