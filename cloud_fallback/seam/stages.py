"""Stages that clean the new writer's text once it is known how it joins: they drop doubled blanks,
closing quotes, fences and trailing remarks."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod

from spillover.cloud_fallback.errors import SeamFailed
from spillover.runtime.text.folding import fold, n_leading_blank
from spillover.runtime.text.json_reader import JsonReader
from spillover.runtime.text.markdown import FENCE, fence_after, last_line, open_fence

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_CLOSING = {
    "<<<": ">>>", "[[[": "]]]", "**": "**", "<fragment>": "</fragment>", "«": "»", "“": "”",
    "⟦": "⟧", '"': '"', "'": "'", "`": "`", "„": "“", "\u2018": "\u2019",
}  # fmt: skip
_MAX_LEAD_CHARS = 200
_OPENING = re.compile(r"[{\[]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Stage(ABC):
    """Text in, text out; holds back only text about which it is not sure yet."""

    is_done = False
    """Whether all further text passes unchanged."""

    @abstractmethod
    def feed(self, text: str) -> str: ...

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return ""


def closing_quote(skipped: str, before: str) -> str:
    """The mark that closes the quote at the end of *skipped*, a preamble. Empty when there is none,
    or when the quote is the answer's own: *before* is what the answer has in that place."""
    skipped = skipped.rstrip()
    opening = next((mark for mark in _CLOSING if skipped.endswith(mark)), "")
    if not opening or FENCE.match(last_line(skipped)):
        return ""
    own = before.rstrip()[-len(opening) :]
    if before[-1:].isspace() and _CLOSING.get(own, own) == own:
        own = ""  # a symmetric mark before a blank has closed something
    is_own = own == opening or (own in _CLOSING and fold(own) == fold(opening))
    return "" if is_own else _CLOSING[opening]


class Splice(Stage):
    """Drops *pending*, which the client already has, from the beginning of the new text.

    Blanks are held until their number is known; nothing else is held. Raises
    SeamFailed where the text does not continue half an escape of a JSON string.
    """

    def __init__(self, pending: str, *, closing: str = "", is_json: bool = False) -> None:
        n = n_leading_blank(pending)
        self._blanks, self._rest = pending[:n], pending[n:]
        self._closing = closing
        self._is_json = is_json
        self._held = ""
        self.is_done = not pending and not closing

    def feed(self, text: str) -> str:
        """The new part of *text*, as far as it is known."""
        if self.is_done:
            return text
        self._held += text
        return self._try(is_last=False)

    def flush(self) -> str:
        """Held text that is new after all."""
        return "" if self.is_done else self._try(is_last=True)

    def _try(self, *, is_last: bool) -> str:
        for drop in (self._drop_closing, self._drop_blanks, self._drop_rest):
            if not drop(is_last=is_last):
                return ""
        self.is_done = True
        text, self._held = self._held, ""
        return text

    def _drop_closing(self, *, is_last: bool) -> bool:
        """Whether it is known if the quote is closed; there may be blanks before the mark."""
        text = self._held[n_leading_blank(self._held) :]
        if not self._closing:
            return True
        if text.startswith(self._closing):
            self._held = text[len(self._closing) :]
        elif self._closing.startswith(text) and not is_last:
            return False
        self._closing = ""
        return True

    def _drop_blanks(self, *, is_last: bool) -> bool:
        """Whether it is known which blanks of the new text were sent already."""
        text, sent = self._held, self._blanks
        if text.startswith(sent):
            self._held = text[len(sent) :]
        else:
            n = n_leading_blank(text)
            if n == len(text) and not is_last:
                return False
            self._held = _new_blanks(sent, text[:n]) + text[n:]
        self._blanks = ""
        return True

    def _drop_rest(self, *, is_last: bool) -> bool:
        """Whether it is known how the half character that was sent continues."""
        text, sent = self._held, self._rest
        if text.lower().startswith(sent.lower()):
            self._held = text[len(sent) :]
        elif sent.lower().startswith(text.lower()) and not is_last:
            return False
        elif text and self._is_json:
            self._held = _escaped(text, sent)
        self._rest = ""
        return True


def _escaped(text: str, sent: str) -> str:
    """The rest of *text*, which writes as a character what *sent* began as an escape."""
    escape = json.dumps(text[0])[1:-1]
    if not escape.lower().startswith(sent.lower()):
        raise SeamFailed("the new text does not continue the escape that was sent")
    return escape[len(sent) :] + text[1:]


def _new_blanks(sent: str, blanks: str) -> str:
    """The part of *blanks* that is missing after *sent*, which is not its beginning."""
    if sent.endswith("\r") and blanks.startswith("\n"):
        return blanks
    n_missing = len(_LINE_BREAK.findall(blanks)) - len(_LINE_BREAK.findall(sent))
    if n_missing > 0:
        breaks = list(_LINE_BREAK.finditer(blanks))
        return blanks[breaks[-n_missing].start() :]
    # After a line break that was sent, more than one blank is indentation.
    is_indentation = n_missing < 0 and not _LINE_BREAK.search(blanks)
    return blanks if is_indentation and not (sent.endswith("\n") and len(blanks) == 1) else ""


class SetApart(Stage):
    """Replaces the blanks at the beginning of a text by the part of *lead* missing after
    *before*."""

    def __init__(self, before: str, lead: str) -> None:
        self._lead = _missing(before, lead)

    def feed(self, text: str) -> str:
        if self.is_done:
            return text
        text = text.lstrip()
        self.is_done = bool(text)
        return self._lead + text if text else ""


def _missing(before: str, lead: str) -> str:
    """*lead*, or the part of it that is missing at the end of *before*."""
    if not before or (before[-1].isspace() and "\n" not in lead):
        return ""
    if open_fence(before) is not None:
        lead = "\n"
    n = next(n for n in range(len(lead), -1, -1) if before.endswith(lead[:n]))
    return lead[n:]


class JsonStart(Stage):
    """Drops a fence or a few words before the document. If no document begins, all text passes."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        if self.is_done:
            return text
        self._held += text
        document = JsonReader()
        document.feed(self._held)
        if self._held.strip() and not document.is_broken:
            return self.flush()
        found = _OPENING.search(self._held)
        if not found and len(self._held) <= _MAX_LEAD_CHARS:
            return ""
        self._held = self._held[found.start() if found else 0 :]
        return self.flush()

    def flush(self) -> str:
        self.is_done = True
        text, self._held = self._held, ""
        return text


class JsonEnd(Stage):
    """Lets the document pass and nothing that comes after it."""

    def __init__(self, begun: str = "") -> None:
        self._document = JsonReader()
        self._document.feed(begun)

    def feed(self, text: str) -> str:
        n = self._document.feed(text)
        # Errors pass: a broken document is better shown than hidden.
        return text if self._document.is_broken else text[:n]


class Unwrapped(Stage):
    """Passes text without the line that closes the code block around all of it, which *marker*
    opened. Only lines that begin with a fence are held until they are complete.
    """

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._line = ""
        self._inner: str | None = None

    def feed(self, text: str) -> str:
        return "".join(map(self._pass, _LINE.findall(text)))

    def flush(self) -> str:
        line, self._line = self._line, ""
        return "" if not _may_be_fence(line) or self._closes(line) else line

    def _pass(self, piece: str) -> str:
        if self.is_done:
            return piece
        was_held = _may_be_fence(self._line)
        self._line += piece
        is_whole = self._line.endswith("\n")
        if not is_whole and _may_be_fence(self._line):
            return ""
        line = self._line if was_held else piece
        if not is_whole:
            return line
        whole, self._line = self._line, ""
        self.is_done = self._closes(whole)
        if found := FENCE.match(whole):
            self._inner = fence_after(self._inner, found)
        return "" if self.is_done else line

    def _closes(self, line: str) -> bool:
        found = FENCE.match(line) if self._inner is None else None
        return found is not None and fence_after(self._marker, found) is None


def _may_be_fence(line: str) -> bool:
    bare = line.lstrip()
    return not bare or bare[0] in "`~"
