"""Puts the private texts back into a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from spillover.cloud_fallback.privacy.placeholders import Place, Shapes, read

Lookup: TypeAlias = Callable[[Place], str | None]


class Restorer:
    """Replaces placeholders with the texts they stand for, however the stream is cut.

    Only an end of the text that can still become a placeholder is held back, a few dozen
    characters at most. A placeholder that stands for nothing passes unchanged. *before* comes
    first.
    """

    def __init__(
        self, shapes: Shapes, lookup: Lookup, *, before: str = "", keeps_links: bool = True
    ) -> None:
        self._shapes = shapes
        self._lookup = lookup
        self._before = before
        self._keeps_links = keeps_links
        self._held = ""
        self._last = ""
        """The character before what is held: no placeholder begins within a word."""

    def feed(self, text: str) -> str:
        """What is certain of the text so far and was not returned yet."""
        if not text:
            return ""
        return self._advance(text, is_last=False)

    def flush(self) -> str:
        """The rest; nothing follows."""
        return self._advance("", is_last=True)

    def _advance(self, text: str, *, is_last: bool) -> str:
        skip = len(self._last)
        buffer = self._last + self._held + text
        pieces, done, position = [self._before], skip, skip
        self._before = ""
        while found := self._shapes.may_begin.search(buffer, position):
            start = found.start()
            if not is_last and self._shapes.begun.fullmatch(buffer, start):
                pieces.append(buffer[done:start])
                self._keep(buffer, start)
                return "".join(pieces)
            end, value = self._placeholder(buffer, start)
            if value is not None:
                pieces += (buffer[done:start], value)
                done = end
            position = end
        pieces.append(buffer[done:])
        self._keep(buffer, len(buffer))
        return "".join(pieces)

    def _placeholder(self, buffer: str, start: int) -> tuple[int, str | None]:
        """The end of the placeholder at *start* and its text, or the next index to look at and
        None."""
        match = self._shapes.whole.match(buffer, start)
        value = self._lookup(read(match)) if match else None
        if match is None or value is None:
            return start + 1, None
        end = match.end()
        if self._keeps_links and buffer[end - 1] == "]" and buffer.startswith("(", end):
            opening, closing = ("\\[", "\\]") if buffer[start] == "\\" else ("[", "]")
            return end, f"{opening}{value}{closing}"
        return end, value

    def _keep(self, buffer: str, start: int) -> None:
        self._held = buffer[start:]
        self._last = buffer[start - 1] if start else ""
