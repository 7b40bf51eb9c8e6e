"""Splits the reasoning between tags at the start of an answer, in one block or several, from the
answer itself."""

from __future__ import annotations

from spillover.runtime.text.partial_match import PartialMatch
from spillover.runtime.text.template_tags import (
    ANSWER_OPENINGS,
    PREAMBLE,
    REASONING_TAGS,
    ROLES,
    TagPair,
)

_BLOCKS = (*REASONING_TAGS, PREAMBLE)
_CLOSES = {pair: PartialMatch((pair.close,)) for pair in _BLOCKS}
_OPENINGS = (*(pair.open for pair in _BLOCKS), *ANSWER_OPENINGS)


def starts_inside(prompt: str) -> TagPair | None:
    """The pair whose opening tag ends *prompt*, so that the answer begins as reasoning."""
    text = prompt.rstrip()
    return next((pair for pair in REASONING_TAGS if text.endswith(pair.open)), None)


class ReasoningSplitter:
    """Text in, (is reasoning, text) pieces out. White space around the tags is dropped.

    *inside*: the prompt has opened the reasoning and, if it *has_begun*, holds a part of it.
    """

    def __init__(self, inside: TagPair | None = None, *, has_begun: bool = False) -> None:
        self._pair = inside
        self._held = ""
        self._state = "inside" if inside else "before"
        self._trims = not (inside and has_begun)
        """Whether the reasoning has not begun yet."""

    @property
    def is_through(self) -> bool:
        """Whether all further text is the answer itself."""
        return self._state == "after"

    def feed(self, text: str) -> list[tuple[bool, str]]:
        pieces: list[tuple[bool, str]] = []
        self._held += text
        state = ""
        while state != self._state:
            state = self._state
            if state in ("before", "role"):
                self._look_for_opening()
            elif state == "inside":
                self._take_reasoning(pieces)
        if state == "after" and self._held:
            pieces.append((False, self._held))
            self._held = ""
        return pieces

    def _look_for_opening(self) -> None:
        start = self._held.lstrip()
        for pair in _BLOCKS:
            if start.startswith(pair.open):
                self._pair, self._held, self._state = pair, start[len(pair.open) :], "inside"
                return
        for opening in ANSWER_OPENINGS:
            if start.startswith(opening):
                self._held = start[len(opening) :]
                # Its channel may follow a role; the answer follows everything else.
                self._state = "role" if opening in ROLES else "after"
                return
        if self._pair is not None:  # without reasoning the answer keeps its leading white space
            self._held = start
        if start and not any(opening.startswith(start) for opening in _OPENINGS):
            self._state = "after"

    def _take_reasoning(self, pieces: list[tuple[bool, str]]) -> None:
        assert self._pair is not None
        if self._trims:
            self._held = self._held.lstrip()
            self._trims = not self._held
        before, tag, after = self._held.partition(self._pair.close)
        if tag:
            # Several blocks may follow one another.
            self._held, self._state, self._trims = after, "before", True
            before = before.rstrip()
        else:
            # The white space before the tag belongs to the tag.
            n = len(before) - _CLOSES[self._pair].n_at_end(before)
            n = len(before[:n].rstrip())
            before, self._held = before[:n], before[n:]
        if before:
            pieces.append((self._pair is not PREAMBLE, before))

    def flush(self) -> list[tuple[bool, str]]:
        """What is still held, at the end of the answer."""
        text, self._held = self._held, ""
        if self._state == "inside":
            text = text.rstrip()
        is_reasoning = self._state == "inside" and self._pair is not PREAMBLE
        return [(is_reasoning, text)] if text else []
