"""Keeps an answer of several writers within its max_tokens."""

from __future__ import annotations

import re

from spillover.runtime.request import GenerationRequest
from spillover.runtime.text.scripts import characters_of

_WIDE = characters_of("kana", "han", "hangul")
_WORD = re.compile(f"[{_WIDE}]|[^\\s{_WIDE}]+")
_ENDS_INSIDE = re.compile(f"[^\\s{_WIDE}]\\Z")
_BEGINS_INSIDE = re.compile(f"[^\\s{_WIDE}]")


def tokens_left(request: GenerationRequest, completion_tokens: int) -> int | None:
    """How many tokens the answer to *request* may still have after *completion_tokens* of all
    legs, reasoning included; None: no limit. At 0 it ends with "length", and nobody is asked."""
    if request.max_tokens is None:
        return None
    return max(0, request.max_tokens - completion_tokens)


class VisibleLimit:
    """Passes at most *tokens_left* words, or twice as many characters of a script without spaces.

    A provider's max_tokens also covers the anchor it repeats and what it thinks, so it may write
    more than was asked for. A token is hardly ever longer than what is counted here: an answer
    within its limit is never cut, and one beyond it runs on by less than that added room.
    """

    def __init__(self, tokens_left: int | None) -> None:
        self._halves_left = None if tokens_left is None else 2 * tokens_left
        self._is_inside = False
        self.is_over = False

    def feed(self, text: str) -> str:
        """What of *text* is within the limit."""
        if self._halves_left is None or not text:
            return text
        if self.is_over:
            return ""
        begun = self._is_inside and _BEGINS_INSIDE.match(text) is not None
        for found in _WORD.finditer(text):
            if begun and found.start() == 0:
                continue
            cost = 2 if _BEGINS_INSIDE.match(found[0]) else 1
            if self._halves_left < cost:
                self.is_over = True
                return text[: found.start()]
            self._halves_left -= cost
        self._is_inside = _ENDS_INSIDE.search(text) is not None
        return text
