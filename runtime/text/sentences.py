"""Finds the ends of sentences, list items and lines, where a text can be left and continued."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.runtime.text.graphemes import boundary_before
from spillover.runtime.text.markdown import FENCE, LIST_MARKER, fence_after, open_fence

_CLOSERS = "[\"'\u201d\u2019»\u203a)\\]}*_]*"
_WIDE_ENDS = "[\u3002\uff01\uff1f\uff0e\uff61]+[\u300d\u300f\u201d\u2019\uff09\u300b\u3009\u3011]*"
_NARROW_ENDS = rf"[.!?…\u061f\u06d4\u0964\u0965\u0589\u1362\u17d4]+{_CLOSERS}(?=\s|\Z)"
_ENDS = re.compile(f"{_NARROW_ENDS}|{_WIDE_ENDS}")
"""The narrow ones end a sentence only before white space, the wide ones anywhere."""

_ABBREVIATIONS = (
    "mr mrs ms dr prof st vs etc eg ie no nos vol fig figs al inc ltd co corp jr sr dept approx "
    "est ca cf resp incl max min sec ed eds pp jan feb mar apr jun jul aug sep sept oct nov dec "
    "zb dh ua bzw usw nr str evtl ggf vgl hr fr abb mio mrd inkl zt mme mlle mm pex sra sres sta "
    "dña sig dott avv ecc pág núm bijv enz nl tj np itd itp tzn inż"
)
_ABBREVIATED = frozenset(_ABBREVIATIONS.split())
_WORD_BEFORE_DOT = re.compile(r"([^\W_][\w.]*)\.\Z")
MAX_ROLLBACK_CHARS = 600
"""Rather than roll back further than this, keep half a sentence."""


def boundaries(
    text: str, start: int = 0, *, is_whole: bool = True, fence: str | None = None
) -> Iterator[int]:
    """Yield the ends of sentences and lines of *text* from *start* on, in order.

    An end lies before the white space that follows it. *is_whole* False: more text will come, so a
    full stop at the end of *text* does not count yet. *fence*: the marker of the code block in
    which *text* begins.
    """
    line_start = text.rfind("\n", 0, start) + 1
    fence = open_fence(text[:line_start], fence)
    while line_start < len(text):
        line_end = text.find("\n", line_start)
        is_last = line_end < 0
        line = text[line_start:] if is_last else text[line_start:line_end]
        was, found = fence, FENCE.match(line)
        fence = fence_after(fence, found) if found else fence
        ends = [] if was or fence else _sentence_ends(line, counts_last=is_whole or not is_last)
        if not is_last:
            ends.append(len(line.rstrip()))
        last = -1
        for end in ends:
            if line_start + end >= start and end > last and line[:end].strip():
                yield line_start + end
            last = max(last, end)
        if is_last:
            return
        line_start = line_end + 1


def _sentence_ends(line: str, *, counts_last: bool) -> list[int]:
    marker = LIST_MARKER.match(line)
    return [
        found.end()
        for found in _ENDS.finditer(line, marker.end() if marker else 0)
        if (counts_last or found.end() < len(line)) and not _is_abbreviation(line, found)
    ]


def _is_abbreviation(line: str, found: re.Match[str]) -> bool:
    if found[0] != ".":
        return False
    word = _WORD_BEFORE_DOT.search(line[max(0, found.end() - 24) : found.end()])
    if word is None:
        return False
    core = word[1].replace(".", "").lower()
    return core in _ABBREVIATED or len(core) == 1 or (core.isdigit() and len(core) < 3)


def sentence_end(text: str, start: int = 0, *, fence: str | None = None) -> int | None:
    """The first place at or after *start* where a still growing *text* can be left; None: not
    yet."""
    return next(boundaries(text, start, is_whole=False, fence=fence), None)


def good_boundary(text: str, keep_chars: int | None = None) -> int:
    """How many characters of *text* to keep so that it ends with a sentence, list item or line,
    or else with a word; never more than *keep_chars*, and 0 when not even a word is left."""
    keep = len(text) if keep_chars is None else max(0, min(keep_chars, len(text)))
    keep = boundary_before(text, keep)
    start = max(0, keep - MAX_ROLLBACK_CHARS)
    best = 0
    for end in boundaries(text, start):
        if end > keep:
            break
        best = end
    return best or _word_end(text, keep)


def _word_end(text: str, keep: int) -> int:
    if keep == len(text) or text[keep].isspace():
        return len(text[:keep].rstrip())
    start = keep
    while start and not text[start - 1].isspace():
        start -= 1
    return len(text[:start].rstrip())
