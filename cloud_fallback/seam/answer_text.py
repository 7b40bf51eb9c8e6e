"""The text of one answer across its writers: what was sent, what is held, and where it stops."""

from __future__ import annotations

from typing import TypeAlias

from spillover.cloud_fallback.events import Replace
from spillover.runtime.text.stop_matcher import StopMatcher

Piece: TypeAlias = str | Replace
"""Text to append, or how much of the answer to keep before text is appended again."""


class AnswerText:
    """Finds stop strings across the legs of an answer, and keeps its text.

    Every leg's text passes through it. A possible beginning of a stop string is held back, and
    stays held when a writer is cancelled: the next one may complete it. *sent*: what the client has
    before the first leg. *can_replace*: the client accepts Replace events.
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
        """The answer so far, held text included: what the next writer continues."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def n_sent(self) -> int:
        """Characters of the answer that the client has."""
        return self._n_sent

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer."""
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
        """The new part of *text*, which the matcher let pass; the client may have some of it."""
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
        """Show a new matcher the end of the text, where a stop string may begin."""
        said = self.said
        tail = said[max(0, len(said) - max(map(len, self._stops), default=0) + 1) :]
        self._matcher = StopMatcher(self._stops)
        self._n_passed = len(said) - len(tail)
        return self._passed(self._matcher.feed(tail))

    def _without_stop(self) -> list[Piece]:
        """End the answer before its stop string. If the string began at the end of an earlier leg,
        that part may have been sent, and stays if it cannot be taken back."""
        n_excess = self._n_sent - self._n_passed
        if n_excess > 0 and self._can_replace:
            self._n_sent = self._n_passed
        self._parts = [self.said[: max(self._n_passed, self._n_sent)]]
        return [Replace(keep_chars=self._n_sent)] if n_excess > 0 and self._can_replace else []
