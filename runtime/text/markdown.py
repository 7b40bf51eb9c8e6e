"""Whether a position in Markdown is in a code block, a list, a table or prose."""

from __future__ import annotations

import re

FENCE = re.compile(r"^[ \t>]*(```+|~~~+)([^\n`]*)", re.MULTILINE)
LIST_MARKER = re.compile(r"[ \t]*(?:[-*+•]|\d{1,9}[.)])(?=[ \t]|$)")
TABLE_ROW = re.compile(r"[ \t]*\|")
HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]")
_MAX_HEAD_CHARS = 64
"""Of a line, to see whether it is a fence."""


def fence_after(marker: str | None, found: re.Match[str]) -> str | None:
    """The marker of the code block that is open behind the fence *found*, where *marker* opened
    the one before it. None: outside of code."""
    if marker is None:
        return found[1]
    closes = found[1].startswith(marker) and not found[2].strip()
    return None if closes else marker


def open_fence(text: str, marker: str | None = None) -> str | None:
    """The marker of the code block in which *text* ends; None outside of code. *marker*: of the
    block in which it begins."""
    for found in FENCE.finditer(text):
        marker = fence_after(marker, found)
    return marker


class Fences:
    """Follows the code blocks of a text as it grows, at a constant cost per character.

    A fence counts once its line has ended: a closing line still counts as inside.
    """

    __slots__ = ("_head", "_marker", "inside", "on_fence_line")

    def __init__(self) -> None:
        self.inside = False
        """Whether the text ends in a code block."""
        self.on_fence_line = False
        """Whether the last line opens or closes a block."""
        self._marker: str | None = None
        self._head: str | None = ""
        """The beginning of the last line; None once it cannot be a fence."""

    def feed(self, text: str) -> None:
        if "\n" not in text:
            if self._head is not None:
                self._begin_line(text)
            return
        first, *lines = text.split("\n")
        self._begin_line(first)
        for line in lines:
            self._end_line()
            self._begin_line(line)

    def _begin_line(self, text: str) -> None:
        if self._head is None:
            return
        head = self._head = self._head + text[: _MAX_HEAD_CHARS - len(self._head)]
        bare = head.lstrip(" \t>")
        self.on_fence_line = bare.startswith(("```", "~~~"))
        may_be_fence = "```".startswith(bare) or "~~~".startswith(bare)
        if not self.on_fence_line and (not may_be_fence or len(head) == _MAX_HEAD_CHARS):
            self._head = None

    def _end_line(self) -> None:
        if self.on_fence_line and (found := FENCE.match(self._head or "")):
            self._marker = fence_after(self._marker, found)
            self.inside = self._marker is not None
        self.on_fence_line = False
        self._head = ""


def last_line(text: str) -> str:
    """*text* after its last line break."""
    return text[max(text.rfind("\n"), text.rfind("\r")) + 1 :]


def is_inside_inline_code(text: str) -> bool:
    """Whether *text* ends after a back-tick that its line does not close."""
    return last_line(text).count("`") % 2 > 0


def is_prose(text: str) -> bool:
    """Whether *text* ends in a plain paragraph: not in code, a heading, a list or a table."""
    line = last_line(text)
    return not (
        LIST_MARKER.match(line)
        or TABLE_ROW.match(line)
        or HEADING.match(line)
        or FENCE.match(line)
        or is_inside_inline_code(text)
        or open_fence(text) is not None
    )
