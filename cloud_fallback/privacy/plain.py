"""What detectors take and give: plain text, and spans of it that must not leave the device.

Plain text is without the tricks that hide a number or an address from a pattern. All digits become
0-9, all spaces a space, all dashes "-". Characters without width (zero-width characters, soft
hyphens, direction marks) are left out. Escapes of JSON, URLs and HTML become the characters they
stand for. Each index into it leads back to the original text.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

_FOLDED = re.compile(
    r"[^\x00-\x7f]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|\\(?:[nrt/]|u[0-9a-fA-F]{4})|%(?:25)*[2-7][0-9a-fA-F]"
    r"|&(?:#[0-9]{2,4}|#[xX][0-9a-fA-F]{2,4}|commat|period|colon|equals|quot|apos|amp|lt|gt|nbsp);"
)
_ESCAPES = {
    "\\n": "\n",
    "\\r": "\n",
    "\\t": " ",
    "\\/": "/",
    "&commat;": "@",
    "&period;": ".",
    "&colon;": ":",
    "&equals;": "=",
    "&quot;": '"',
    "&apos;": "'",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": " ",
}
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u20e3\u3164\uffa0")
_STOPS = frozenset("\u3002\uff0e\uff61\u2024\ufe52")
_SPACES = frozenset("\u2800")


class Span(Struct, frozen=True):
    """text[start:end] is of *kind*: one of settings.Kind or the name of a user's pattern."""

    start: int
    end: int
    kind: str
    value: str = ""
    """The private text, of which text[start:end] may be only a part. Detectors leave it empty."""


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order. Spans that overlap become one, which covers all of them and has the kind
    of the one given first."""
    found: list[tuple[int, Span]] = []
    for rank, span in sorted(enumerate(spans), key=lambda ranked: ranked[1].start):
        if not found or span.start >= found[-1][1].end:
            found.append((rank, span))
            continue
        best, last = found[-1]
        kind = last.kind if best < rank else span.kind
        found[-1] = (min(best, rank), Span(last.start, max(last.end, span.end), kind))
    return [span for _, span in found]


class PlainText:
    """*text* is the plain form of *raw*."""

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self._plain_starts: list[int] = []
        self._raw_starts: list[int] = []
        self._raw_ends: list[int | None] = []
        """None: from here on the characters are the same in both."""
        self.text = raw if _FOLDED.search(raw) is None else self._fold()

    def _fold(self) -> str:
        pieces: list[str] = []
        n_plain = n_raw = 0
        for match in _FOLDED.finditer(self.raw):
            found = match.group()
            folded = _folded(found)
            if folded == found:
                continue
            start, end = match.span()
            pieces += (self.raw[n_raw:start], folded)
            self._mark(n_plain, n_raw, None)
            self._mark(n_plain + start - n_raw, start, end)
            n_plain, n_raw = n_plain + start - n_raw + len(folded), end
        self._mark(n_plain, n_raw, None)
        return "".join((*pieces, self.raw[n_raw:]))

    def _mark(self, plain_start: int, raw_start: int, raw_end: int | None) -> None:
        self._plain_starts.append(plain_start)
        self._raw_starts.append(raw_start)
        self._raw_ends.append(raw_end)

    def raw_span(self, start: int, end: int) -> tuple[int, int]:
        """The place of text[start:end], which is not empty, in *raw*."""
        if not self._plain_starts:
            return start, end
        return self._raw_place(start)[0], self._raw_place(end - 1)[1]

    def _raw_place(self, index: int) -> tuple[int, int]:
        """Start and end of the raw text behind the character at *index*."""
        place = bisect_right(self._plain_starts, index) - 1
        raw_end = self._raw_ends[place]
        raw_start = self._raw_starts[place]
        if raw_end is not None:
            return raw_start, raw_end
        raw_start += index - self._plain_starts[place]
        return raw_start, raw_start + 1


def _folded(found: str) -> str:
    if len(found) == 1:
        return _folded_character(found)
    if (escaped := _ESCAPES.get(found)) is not None:
        return escaped
    if found[0] == "&":
        number = found[2:-1]
        is_hex = number[0] in "xX"
        return _folded_character(chr(int(number[1:], 16) if is_hex else int(number)))
    if found[0] == "\\" and len(found) > len(r"\u0000"):  # a surrogate pair
        return _folded_character(bytes.fromhex(found[2:6] + found[8:]).decode("utf-16-be"))
    # An escaped % is itself %25: %2540 is @, escaped twice.
    return _folded_character(chr(int(found[-2:] if found[0] == "%" else found[2:], 16)))


@lru_cache(maxsize=4096)
def _folded_character(character: str) -> str:
    category = unicodedata.category(character)
    if character.isascii():
        return character
    if category == "Cf" or character in _INVISIBLE or 0xFE00 <= ord(character) <= 0xFE0F:
        return ""
    if category == "Zs" or character in _SPACES:
        return " "
    if category == "Cs":  # half a character, which no pattern can read
        return "\ufffd"
    if category in ("Zl", "Zp"):
        return "\n"
    if category == "Pd" or character == "\u2212":
        return "-"
    if category == "Nd":
        return str(unicodedata.digit(character))
    if character in _STOPS:
        return "."
    compatible = unicodedata.normalize("NFKC", character)
    return compatible if compatible.isascii() else character
