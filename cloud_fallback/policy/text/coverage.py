"""Measures how many of the prompt's content words an answer has not mentioned yet."""

from __future__ import annotations

import re

from spillover.runtime.text.languages import FUNCTION_WORDS
from spillover.runtime.text.scripts import script_of

_WORD = re.compile(r"\w+")
_STEM = 6
"""Words are compared by their first letters: "reverses" is "reverse"."""
_MAX_WORDS = 64
_MAX_CHARS = 4_000
_SPACED = frozenset(("latin", "greek", "cyrillic", "armenian", "hebrew", "arabic", "georgian"))
"""Scripts that separate words with spaces."""
_REQUEST_WORDS = (
    "tell write give make list name names named explain describe show create say want like would "
    "could should please story stories short words word start starts begin answer question text "
    "sentence help know think need thing things many much which"
)
_IGNORED = FUNCTION_WORDS.union(_REQUEST_WORDS.split())


class PromptCoverage:
    """Follows the answer to *prompt* and looks for up to 64 of the prompt's content words.

    A weak signal alone, but a strong one together with the model's confidence, which does not fall
    when an answer is off topic. The calibration finds its weight.
    """

    __slots__ = ("_left", "_n_wanted", "_open")

    def __init__(self, prompt: str) -> None:
        self._left = _content_words(prompt)
        self._n_wanted = len(self._left)
        self._open = ""

    @property
    def uncovered(self) -> float:
        """Share of the prompt's content words that have not occurred yet; 0 if there are none."""
        return len(self._left) / self._n_wanted if self._n_wanted else 0.0

    def feed(self, text: str) -> None:
        """Take more of the answer."""
        if not self._left:
            return
        if self._open and text[:1].isalnum():
            text = self._open + text
        words = _WORD.findall(text)
        self._open = words[-1][: 2 * _STEM] if words and text[-1:].isalnum() else ""
        for word in words:
            self._left.discard(word[:_STEM].casefold())


def _content_words(prompt: str) -> set[str]:
    found: set[str] = set()
    for word in _WORD.findall(prompt[-_MAX_CHARS:]):
        if len(found) == _MAX_WORDS:
            break
        if word.isdigit() or (len(word) >= 3 and script_of(word[0]) in _SPACED):
            plain = word.casefold()
            if plain not in _IGNORED:
                found.add(plain[:_STEM])
    return found
