"""The text of one answer, whoever writes it: what the client has, and what is still held back."""

from __future__ import annotations

from typing import TypeAlias

from spillover.runtime.events import Replace
from spillover.runtime.text.stop_matcher import StopMatcher

Piece: TypeAlias = str | Replace
"""Text to append, or how much of the answer stays before text is appended anew."""


class AnswerText:
    """Finds stop strings across the legs of an answer, and keeps its text.

    Every leg's text goes through it. What may be the beginning of a stop string is held back, and
    stays held when a writer is cancelled: the next one may complete it.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._stops = stops
        self._matcher = StopMatcher(stops)
        self._parts: list[str] = []
        self._n_passed = 0
        self._n_sent = 0

    @property
    def said(self) -> str:
        """The answer so far, with what is held back: what the next writer goes on from."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

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
            self._parts = [self.said[: self._n_passed]]
            if self._n_sent > self._n_passed:
                # Only where text was taken back right behind the beginning of a stop string.
                self._n_sent = self._n_passed
                pieces.append(Replace(keep_chars=self._n_passed))
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
        if not self._stops:
            return pieces
        # A stop string may begin in what stays: the matcher reads its end once more.
        tail = kept[max(0, len(kept) - max(map(len, self._stops)) + 1) :]
        self._matcher = StopMatcher(self._stops)
        self._n_passed = len(kept) - len(tail)
        return pieces + self._passed(self._matcher.feed(tail))
