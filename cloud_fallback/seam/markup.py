"""What kind of text a position stands in: code, a list, a table, prose."""

from __future__ import annotations

import re

FENCE = re.compile(r"^[ \t>]*(```+|~~~+)([^\n`]*)", re.MULTILINE)
LIST_MARKER = re.compile(r"[ \t]*(?:[-*+•]|\d{1,9}[.)])(?=[ \t]|$)")
TABLE_ROW = re.compile(r"[ \t]*\|")
HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]")


def open_fence(text: str) -> str | None:
    """The marker of the code block in which *text* ends; None outside of code."""
    marker: str | None = None
    for found in FENCE.finditer(text):
        if marker is None:
            marker = found[1]
        elif found[1].startswith(marker) and not found[2].strip():
            marker = None
    return marker


def last_line(text: str) -> str:
    """What stands after the last line break of *text*."""
    return text[max(text.rfind("\n"), text.rfind("\r")) + 1 :]


def is_inside_inline_code(text: str) -> bool:
    """Whether *text* ends after a back-tick that nothing has closed on its line."""
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
