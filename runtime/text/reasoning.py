"""Splits what a model thinks, between tags at the start of its answer, from the answer."""

from __future__ import annotations

from typing import NamedTuple


class TagPair(NamedTuple):
    """What opens and closes a stretch of reasoning."""

    open: str
    close: str


TAG_PAIRS = (
    TagPair("<think>", "</think>"),
    TagPair("<thinking>", "</thinking>"),
    TagPair("<reasoning>", "</reasoning>"),
    TagPair("<seed:think>", "</seed:think>"),
    TagPair("[THINK]", "[/THINK]"),
)


def starts_inside(prompt: str) -> TagPair | None:
    """The pair whose opening tag ends the rendered *prompt*: the answer begins as reasoning."""
    text = prompt.rstrip()
    return next((pair for pair in TAG_PAIRS if text.endswith(pair.open)), None)


class ReasoningSplitter:
    """Text in, (is reasoning, text) pieces out. White space around the tags is dropped."""

    def __init__(self, inside: TagPair | None = None) -> None:
        self._pair = inside
        self._held = ""
        self._state = "inside" if inside else "before"
        self._trims = True

    @property
    def is_through(self) -> bool:
        """Whether all that comes now is the answer itself."""
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
        for pair in TAG_PAIRS:
            if start.startswith(pair.open):
                self._pair, self._held, self._state = pair, start[len(pair.open) :], "inside"
                return
        if start and not any(pair.open.startswith(start) for pair in TAG_PAIRS):
            # No reasoning: the answer keeps its own leading white space.
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
            n = _n_open_end(before, self._pair.close)
            before, self._held = before[: len(before) - n], before[len(before) - n :]
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
        """What is still held back, at the end of the answer."""
        text, self._held = self._held, ""
        if self._state == "inside":
            text = text.rstrip()
        return [(self._state == "inside", text)] if text else []


def _n_open_end(text: str, tag: str) -> int:
    """Length of the end of *text* that may belong to *tag*: white space, then its beginning."""
    for n in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-n:]):
            break
    else:
        n = 0
    rest = text[: len(text) - n]
    return n + len(rest) - len(rest.rstrip())
