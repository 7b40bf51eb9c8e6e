"""Where a writer's part of the answer ends: at max_tokens, or with the sentence it has begun."""

from __future__ import annotations

import re

from spillover.runtime.request import GenerationRequest
from spillover.runtime.text.markdown import open_fence
from spillover.runtime.text.scripts import characters_of
from spillover.runtime.text.sentences import sentence_end

_WIDE = characters_of("kana", "han", "hangul")
_WORD = re.compile(f"[{_WIDE}]|[^\\s{_WIDE}]+")
_INSIDE = re.compile(f"[^\\s{_WIDE}]")


def tokens_left(request: GenerationRequest, completion_tokens: int) -> int | None:
    """How many more tokens the answer may have after the *completion_tokens* of all legs, including
    reasoning; None: no limit. At 0 it ends with "length" and no other writer is asked."""
    if request.max_tokens is None:
        return None
    return max(0, request.max_tokens - completion_tokens)


class VisibleLimit:
    """Passes at most *tokens_left* words, or twice as many characters of a script without spaces.

    A provider's max_tokens also covers the anchor it repeats and its reasoning, so it may write
    more than was asked for. A token is rarely longer than the unit counted here: an answer within
    its limit is never cut, and a longer one exceeds it by less than the added room.
    """

    def __init__(self, tokens_left: int | None) -> None:
        self._halves_left = None if tokens_left is None else 2 * tokens_left
        self._is_inside = False
        self.is_over = False

    def feed(self, text: str) -> str:
        """The part of *text* within the limit."""
        if self._halves_left is None or not text:
            return text
        if self.is_over:
            return ""
        begun = self._is_inside and _INSIDE.match(text) is not None
        for found in _WORD.finditer(text):
            if begun and found.start() == 0:
                continue
            cost = 2 if _INSIDE.match(found[0]) else 1
            if self._halves_left < cost:
                self.is_over = True
                return text[: found.start()]
            self._halves_left -= cost
        self._is_inside = _INSIDE.match(text[-1]) is not None
        return text


class SentenceFinish:
    """Lets a writer finish its sentence, list item or line before it is replaced.

    It has *max_tokens* and until the time *until*; beyond them the text ends where it is.
    """

    def __init__(self, said: str, *, until: float, max_tokens: int) -> None:
        # Code blocks may begin far back: the whole text is read once, and its last line kept.
        line_start = said.rfind("\n") + 1
        self._fence = open_fence(said[:line_start])
        self._text = said[line_start:]
        self._start = len(self._text)
        self._until = until
        self._tokens_left = max_tokens
        self.is_done = False

    def feed(self, text: str, n_tokens: int, now: float) -> str:
        """The part of *text*, which has *n_tokens* and came at *now*, that belongs to the
        answer."""
        if self.is_done:
            return ""
        n_passed = len(self._text)
        self._text += text
        end = sentence_end(self._text, self._start, fence=self._fence)
        if end is not None:
            self.is_done = True
            return self._text[n_passed:end]
        self._tokens_left -= n_tokens
        self.is_done = self._tokens_left <= 0 or now >= self._until
        return text
