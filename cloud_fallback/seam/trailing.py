"""Drops what a writer adds after the answer: a closing fence it opened itself, words after the end
of a JSON document."""

from __future__ import annotations

import re

from spillover.runtime.text.json_reader import JsonReader
from spillover.runtime.text.markdown import FENCE

MAX_LEAD_CHARS = 200
_OPENING = re.compile(r"[{\[]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class JsonEnd:
    """Lets the document pass and nothing that comes after it."""

    is_done = False

    def __init__(self, document: JsonReader) -> None:
        self._document = document

    def feed(self, text: str) -> str:
        n = self._document.feed(text)
        # What is wrong passes: a broken document is better shown than hidden.
        return text if self._document.is_broken else text[:n]

    def flush(self) -> str:
        return ""


class JsonStart:
    """Drops a fence or a few words before the document. Where none begins, all of it passes."""

    def __init__(self) -> None:
        self._held = ""
        self.is_done = False

    def feed(self, text: str) -> str:
        if self.is_done:
            return text
        self._held += text
        document = JsonReader()
        document.feed(self._held)
        if self._held.strip() and not document.is_broken:
            return self._through(0)
        found = _OPENING.search(self._held)
        if found:
            return self._through(found.start())
        return self._through(0) if len(self._held) > MAX_LEAD_CHARS else ""

    def flush(self) -> str:
        return self._through(0)

    def _through(self, start: int) -> str:
        self.is_done = True
        text, self._held = self._held[start:], ""
        return text


class Unwrapped:
    """Lets text pass without the line that closes the code block around all of it, which *marker*
    opened. Only lines that begin with a fence are held, until they are whole.
    """

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._line = ""
        self._fence: str | None = None
        self.is_done = False

    def feed(self, text: str) -> str:
        if self.is_done:
            return text
        return "".join(
            piece if self.is_done else self._piece(piece) for piece in _LINE.findall(text)
        )

    def _piece(self, piece: str) -> str:
        was_held = _may_be_fence(self._line)
        self._line += piece
        is_whole = self._line.endswith("\n")
        if not is_whole and _may_be_fence(self._line):
            return ""
        line = self._line if was_held else piece
        if is_whole:
            line = self._take(line)
            self._line = ""
        return line

    def _take(self, line: str) -> str:
        found = FENCE.match(self._line)
        if not found:
            return line
        if self._fence is not None:
            if found[1].startswith(self._fence) and not found[2].strip():
                self._fence = None
        elif self._closes(found):
            self.is_done = True
            return ""
        else:
            self._fence = found[1]
        return line

    def _closes(self, found: re.Match[str]) -> bool:
        return not found[2].strip() and found[1].startswith(self._marker)

    def flush(self) -> str:
        line, self._line = self._line, ""
        if not _may_be_fence(line):
            return ""
        found = FENCE.match(line)
        return "" if found and self._fence is None and self._closes(found) else line


def _may_be_fence(line: str) -> bool:
    bare = line.lstrip()
    return not bare or bare[0] in "`~"
