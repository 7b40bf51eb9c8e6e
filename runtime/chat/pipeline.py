"""The text of one answer: token bytes → characters → reasoning, tool calls, stop strings."""

from __future__ import annotations

from typing import TypeAlias

from spillover.runtime.text.detokenizer import Detokenizer
from spillover.runtime.text.reasoning import ReasoningSplitter
from spillover.runtime.text.stop_matcher import StopMatcher
from spillover.runtime.text.template_tags import TagPair
from spillover.runtime.tools.parser import CallDelta, ToolParser

Piece: TypeAlias = tuple[bool, str] | CallDelta


class TextPipeline:
    """Depends on the bytes alone, so that the same tokens, fed again after a crash, release the
    same text one by one.

    Pieces are (is reasoning, text) or parts of tool calls. The cost per call does not depend on
    the answer's length.
    """

    def __init__(
        self,
        stops: tuple[str, ...],
        *,
        split_reasoning: bool,
        inside: TagPair | None = None,
        has_begun: bool = False,
        tools: ToolParser | None = None,
    ) -> None:
        self._detokenizer = Detokenizer()
        self._stops = StopMatcher(stops)
        self._splitter = ReasoningSplitter(inside, has_begun=has_begun) if split_reasoning else None
        self._tools = tools

    @property
    def has_calls(self) -> bool:
        """Whether there are tool calls and all of them are whole."""
        tools = self._tools
        return tools is not None and tools.n_calls > 0 and not tools.has_open_call

    @property
    def stopped(self) -> str | None:
        """The stop string that has ended the answer."""
        return self._stops.stopped

    def feed(self, piece: bytes) -> list[Piece]:
        """The pieces that a token's bytes release; none while everything is held back."""
        text = self._detokenizer.feed(piece)
        return self._sorted(self._split(text)) if text else []

    def _sorted(self, parts: list[tuple[bool, str]]) -> list[Piece]:
        """Stop strings count in the answer: not in reasoning, which also holds no calls, and not
        in the markup of calls, which the client does not see."""
        pieces: list[Piece] = []
        for is_reasoning, text in parts:
            if is_reasoning:
                pieces.append((True, text))
            elif self._tools is not None:
                pieces += self._until_stop(self._tools.feed(text))
            else:
                pieces += _shown(self._stops.feed(text))
        return pieces

    def _until_stop(self, pieces: list[str | CallDelta]) -> list[Piece]:
        passed: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, str):
                passed += _shown(self._stops.feed(piece))
            elif self._stops.stopped is None:
                # The text before a call is complete: no stop string spans the call.
                passed += _shown(self._stops.flush())
                passed.append(piece)
        return passed

    def _split(self, text: str) -> list[tuple[bool, str]]:
        if self._splitter is None:
            return [(False, text)]
        if self._splitter.is_through:
            self._splitter = None
            return [(False, text)]
        return self._splitter.feed(text)

    def flush(self) -> list[Piece]:
        """The rest, at the end of the answer."""
        text = self._detokenizer.flush()
        left = self._sorted(self._split(text) if text else [])
        left += self._sorted(self._splitter.flush() if self._splitter else [])
        if self._tools is not None:
            left += self._until_stop(self._tools.flush())
        return left + _shown(self._stops.flush())


def _shown(text: str) -> list[Piece]:
    return [(False, text)] if text else []
