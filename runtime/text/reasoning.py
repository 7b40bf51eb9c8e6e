"""Splits the reasoning between tags at the start of an answer from the answer itself."""

from __future__ import annotations

from spillover.runtime.text.partial_match import PartialMatch
from spillover.runtime.text.template_tags import REASONING_TAGS, TagPair

_CLOSES = {pair: PartialMatch((pair.close,)) for pair in REASONING_TAGS}


def starts_inside(prompt: str) -> TagPair | None:
    """The pair whose opening tag ends *prompt*, so that the answer begins as reasoning."""
    text = prompt.rstrip()
    return next((pair for pair in REASONING_TAGS if text.endswith(pair.open)), None)


class ReasoningSplitter:
    """Text in, (is reasoning, text) pieces out. White space around the tags is dropped."""

    def __init__(self, inside: TagPair | None = None) -> None:
        self._pair = inside
        self._held = ""
        self._state = "inside" if inside else "before"
        self._trims = True

    @property
    def is_through(self) -> bool:
        """Whether all further text is the answer itself."""
        return self._state == "after" and not self._trims

    def feed(self, text: str) -> list[tuple[bool, str]]:
        pieces: list[tuple[bool, str]] = []
        self._held += text
        if self._state == "before":
            self._look_for_opening()
        if self._state == "inside":
            self._take_reasoning(pieces)
        if self._state == "after":
            self._take_answer(pieces)
        return pieces

    def _look_for_opening(self) -> None:
        start = self._held.lstrip()
        for pair in REASONING_TAGS:
            if start.startswith(pair.open):
                self._pair, self._held, self._state = pair, start[len(pair.open) :], "inside"
                return
        if start and not any(pair.open.startswith(start) for pair in REASONING_TAGS):
            # Without reasoning the answer keeps its leading white space.
            self._state, self._trims = "after", False

    def _take_reasoning(self, pieces: list[tuple[bool, str]]) -> None:
        assert self._pair is not None
        if self._trims:
            self._held = self._held.lstrip()
            self._trims = not self._held
        before, tag, after = self._held.partition(self._pair.close)
        if tag:
            self._held, self._state, self._trims = after, "after", True
            before = before.rstrip()
        else:
            # The white space before the tag belongs to the tag.
            n = len(before) - _CLOSES[self._pair].n_at_end(before)
            n = len(before[:n].rstrip())
            before, self._held = before[:n], before[n:]
        if before:
            pieces.append((True, before))

    def _take_answer(self, pieces: list[tuple[bool, str]]) -> None:
        text, self._held = self._held, ""
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        if text:
            pieces.append((False, text))

    def flush(self) -> list[tuple[bool, str]]:
        """What is still held, at the end of the answer."""
        text, self._held = self._held, ""
        if self._state == "inside":
            text = text.rstrip()
        return [(self._state == "inside", text)] if text else []
