"""The text of one answer: bytes of tokens → characters → stop strings → reasoning."""

from __future__ import annotations

from typing import TypeAlias

from spillover.runtime.text.detokenizer import Detokenizer
from spillover.runtime.text.reasoning import ReasoningSplitter, TagPair
from spillover.runtime.text.stop_matcher import StopMatcher
from spillover.runtime.tools.parser import CallDelta, ToolParser

Piece: TypeAlias = tuple[bool, str] | CallDelta


class TextPipeline:
    """A function of the bytes fed and nothing else, so that feeding the same tokens again, after
    a crash, releases the same text after each of them.

    Pieces are (is reasoning, text), or parts of tool calls. Cost per call does not depend on the
    answer's length.
    """

    def __init__(
        self,
        stops: tuple[str, ...],
        *,
        split_reasoning: bool,
        inside: TagPair | None = None,
        tools: ToolParser | None = None,
    ) -> None:
        self._detokenizer = Detokenizer()
        self._stops = StopMatcher(stops)
        self._splitter = ReasoningSplitter(inside) if split_reasoning else None
        self._tools = tools

    @property
    def n_calls(self) -> int:
        """Tool calls that are whole."""
        return self._tools.n_calls if self._tools else 0

    @property
    def stopped(self) -> str | None:
        """The stop string that has ended the answer."""
        return self._stops.stopped

    def feed(self, piece: bytes) -> list[Piece]:
        """The pieces that a token's bytes release; none when all is held back."""
        text = self._stops.feed(self._detokenizer.feed(piece))
        pieces = self._split(text) if text else []
        return self._called(pieces) if self._tools else list(pieces)

    def _called(self, pieces: list[tuple[bool, str]]) -> list[Piece]:
        """The answer's text may hold calls; what is thought holds none."""
        assert self._tools is not None
        called: list[Piece] = []
        for is_reasoning, text in pieces:
            if is_reasoning:
                called.append((True, text))
            else:
                called += _marked(self._tools.feed(text))
        return called

    def _split(self, text: str) -> list[tuple[bool, str]]:
        if self._splitter is None:
            return [(False, text)]
        if self._splitter.is_through:
            self._splitter = None
            return [(False, text)]
        return self._splitter.feed(text)

    def flush(self) -> list[Piece]:
        """What is left at the end of the answer."""
        text = self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        pieces = self._split(text) if text else []
        if self._splitter is not None:
            pieces += self._splitter.flush()
        if self._tools is None:
            return list(pieces)
        return self._called(pieces) + _marked(self._tools.flush())


def _marked(pieces: list[str | CallDelta]) -> list[Piece]:
    return [(False, piece) if isinstance(piece, str) else piece for piece in pieces]
