"""Where in a Markdown text code blocks begin and end."""

from __future__ import annotations

_FENCES = ("```", "~~~")
_LOOK = 8
"""Characters of a line in which its fence must begin."""


class Fences:
    """Follows the text as it grows; knows the line that it is in."""

    __slots__ = ("_head", "inside", "on_fence_line")

    def __init__(self) -> None:
        self.inside = False
        """Whether the text ends in a code block; its closing fence line still counts as inside."""
        self.on_fence_line = False
        """Whether the last line opens or closes a block."""
        self._head = ""
        """The beginning of the last line."""

    def feed(self, text: str) -> None:
        if "\n" not in text:
            if len(self._head) < _LOOK:
                self._begin(text)
            return
        first, *middle, last = text.split("\n")
        self._begin(first)
        self._end_line()
        for line in middle:
            self._begin(line)
            self._end_line()
        self._begin(last)

    def _begin(self, text: str) -> None:
        self._head += text[:_LOOK]
        if not self.on_fence_line and self._head.lstrip(" ").startswith(_FENCES):
            self.on_fence_line = True

    def _end_line(self) -> None:
        if self.on_fence_line:
            self.inside = not self.inside
        self.on_fence_line = False
        self._head = ""
