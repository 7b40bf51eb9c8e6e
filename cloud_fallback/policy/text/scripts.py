"""Finds letters of a script that the conversation does not use."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from spillover.runtime.text.scripts import script_of, scripts_in, scripts_of

_WINDOW = 64
_MAX_PROMPT_CHARS = 8_000
_LATIN_SHARE = 0.8
"""Latin letters occur in texts of all scripts, so it takes many more of them."""
_AT_HOME, _FOREIGN, _LATIN = 0, 1, 2
"""Kinds of letters; _LATIN counts as foreign too."""
_MENTIONS_LANGUAGES = re.compile(
    r"translat|transcri|in (?:english|french|german|spanish|italian|russian|ukrainian|chinese|"
    r"mandarin|japanese|korean|arabic|hebrew|hindi|greek|thai|bengali|tamil|persian|urdu)|"
    r"\b(?:english|russian|ukrainian|chinese|mandarin|japanese|korean|arabic|hebrew|hindi|greek|"
    r"thai|bengali|tamil|persian|urdu|kanji|hiragana|cyrillic|alphabet)\b|"
    r"übersetz|traduc|tradui|перев[её]?[дст]|англий|翻译|翻譯|翻訳|英語|英语|英文|번역|영어|ترجم|अनुवाद",
    re.IGNORECASE,
)


class Scripts:
    """Follows the letters of an answer to *prompts*, the user's messages.

    No letter is foreign if the conversation mentions languages or has too few letters.
    """

    __slots__ = ("_counts", "_home", "_kinds", "_needed", "_since", "found_at")

    def __init__(self, prompts: Iterable[str], n_needed: int) -> None:
        text = "\n".join(prompts)[-_MAX_PROMPT_CHARS:]
        counts = scripts_in(text)
        knows = counts.total() >= 8 and not _MENTIONS_LANGUAGES.search(text)
        self._home = scripts_of(counts) if knows else None
        self._needed = (0, n_needed, int(_LATIN_SHARE * _WINDOW))
        self._kinds = deque([_AT_HOME] * _WINDOW)
        self._counts = [_WINDOW, 0, 0]
        self._since = [0, 0, 0]
        self.found_at: int | None = None
        """Where the foreign letters begin, once there are enough."""

    def feed(self, text: str, start_char: int) -> None:
        """Take text that begins at *start_char* of the answer."""
        home = self._home
        if home is None or self.found_at is not None:
            return
        if self._counts[_AT_HOME] == _WINDOW and text.isascii() and "latin" in home:
            return
        for place, letter in enumerate(text):
            if letter.isalpha():
                self._push(self._kind(letter, home), start_char + place)
        for kind in (_FOREIGN, _LATIN):
            if self._counts[kind] >= self._needed[kind]:
                self.found_at = self._since[kind]

    def _kind(self, letter: str, home: frozenset[str]) -> int:
        script = script_of(letter)
        if script in home or script == "other":
            return _AT_HOME
        return _LATIN if script == "latin" else _FOREIGN

    def _push(self, kind: int, place: int) -> None:
        counts = self._counts
        if not counts[kind]:
            self._since[kind] = place
        counts[kind] += 1
        self._kinds.append(kind)
        counts[self._kinds.popleft()] -= 1
