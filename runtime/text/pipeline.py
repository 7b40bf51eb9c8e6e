"""The text of one answer: bytes of tokens → characters → stop strings → reasoning."""

from __future__ import annotations

from spillover.runtime.text.detokenizer import Detokenizer
from spillover.runtime.text.reasoning import ReasoningSplitter, TagPair
from spillover.runtime.text.stop_matcher import StopMatcher


class TextPipeline:
    """A function of the bytes fed and nothing else, so that feeding the same tokens again, after
    a crash, releases the same text after each of them.

    Pieces are (is reasoning, text). Cost per call does not depend on the answer's length.
    """

    def __init__(
        self, stops: tuple[str, ...], *, split_reasoning: bool, inside: TagPair | None = None
    ) -> None:
        self._detokenizer = Detokenizer()
        self._stops = StopMatcher(stops)
        self._splitter = ReasoningSplitter(inside) if split_reasoning else None

    @property
    def stopped(self) -> str | None:
        """The stop string that has ended the answer."""
        return self._stops.stopped

    def feed(self, piece: bytes) -> list[tuple[bool, str]]:
        """The pieces that a token's bytes release; none when all is held back."""
        text = self._stops.feed(self._detokenizer.feed(piece))
        return self._split(text) if text else []

    def _split(self, text: str) -> list[tuple[bool, str]]:
        if self._splitter is None:
            return [(False, text)]
        if self._splitter.is_through:
            self._splitter = None
            return [(False, text)]
        return self._splitter.feed(text)

    def flush(self) -> list[tuple[bool, str]]:
        """What is left at the end of the answer."""
        text = self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        pieces = self._split(text) if text else []
        if self._splitter is not None:
            pieces += self._splitter.flush()
        return pieces
