"""The text of one answer across its writers: what the client has, where it stops, how long it may
be."""

from __future__ import annotations

import re
from typing import TypeAlias

from spillover.cloud_fallback.events import Replace
from spillover.runtime.request import GenerationRequest
from spillover.runtime.text.scripts import characters_of
from spillover.runtime.text.stop_matcher import StopMatcher

_WIDE = characters_of("kana", "han", "hangul")
_WORD = re.compile(f"[{_WIDE}]|[^\\s{_WIDE}]+")
_ENDS_INSIDE = re.compile(f"[^\\s{_WIDE}]\\Z")
_BEGINS_INSIDE = re.compile(f"[^\\s{_WIDE}]")

Piece: TypeAlias = str | Replace
"""Text to append, or how much of the answer stays before text is appended anew."""


class AnswerText:
    """Finds stop strings across the legs of an answer, and keeps its text.

    Every leg's text goes through it. What may be the beginning of a stop string is held back, and
    stays held when a writer is cancelled: the next one may complete it. *sent*: what the client
    has before the first leg. *can_replace*: the client lets text be taken back.
    """

    def __init__(
        self, stops: tuple[str, ...] = (), *, sent: str = "", can_replace: bool = False
    ) -> None:
        self._stops = stops
        self._can_replace = can_replace
        self._matcher = StopMatcher(stops)
        self._parts = [sent]
        self._n_passed = self._n_sent = len(sent)
        self._read_end_again()

    @property
    def said(self) -> str:
        """The answer so far, with what is held back: what the next writer goes on from."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def n_sent(self) -> int:
        """Characters of the answer that the client has."""
        return self._n_sent

    @property
    def stopped(self) -> str | None:
        """The stop string that has ended the answer."""
        return self._matcher.stopped

    def feed(self, piece: Piece) -> list[Piece]:
        """What to send for the next *piece*."""
        if self.stopped is not None:
            return []
        if isinstance(piece, Replace):
            return self._take_back(piece.keep_chars)
        self._parts.append(piece)
        if not self._stops:
            self._n_sent += len(piece)
            return [piece] if piece else []
        pieces = self._passed(self._matcher.feed(piece))
        if self.stopped is not None:
            pieces += self._without_stop()
        return pieces

    def flush(self) -> list[Piece]:
        """What was held back, when the answer is complete."""
        return self._passed(self._matcher.flush()) if self.stopped is None else []

    def _passed(self, text: str) -> list[Piece]:
        """Note that the matcher has let *text* pass; some of it may have been sent before."""
        self._n_passed += len(text)
        n_new = self._n_passed - self._n_sent
        if n_new <= 0:
            return []
        self._n_sent = self._n_passed
        return [text[len(text) - n_new :]]

    def _take_back(self, keep_chars: int) -> list[Piece]:
        kept = self.said[:keep_chars]
        self._parts = [kept]
        pieces: list[Piece] = []
        if len(kept) < self._n_sent:
            self._n_sent = len(kept)
            pieces.append(Replace(keep_chars=len(kept)))
        return pieces + self._read_end_again() if self._stops else pieces

    def _read_end_again(self) -> list[Piece]:
        """Let a new matcher see what a stop string may begin with that ends later."""
        said = self.said
        tail = said[max(0, len(said) - max(map(len, self._stops), default=0) + 1) :]
        self._matcher = StopMatcher(self._stops)
        self._n_passed = len(said) - len(tail)
        return self._passed(self._matcher.feed(tail))

    def _without_stop(self) -> list[Piece]:
        """The answer ends before its stop string. The beginning of one may have been sent, where
        it was the last of an earlier leg: that stays if it must."""
        n_excess = self._n_sent - self._n_passed
        if n_excess > 0 and self._can_replace:
            self._n_sent = self._n_passed
        self._parts = [self.said[: max(self._n_passed, self._n_sent)]]
        return [Replace(keep_chars=self._n_sent)] if n_excess > 0 and self._can_replace else []


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
