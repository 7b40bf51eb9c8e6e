"""E-mail addresses, also those that are spelled out to hide them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.plain import Span

MAX_LOCAL_CHARS = 128
_LOCAL_BACKWARDS = re.compile(r"[\w.+'%!#$&*^~-]+")
_NOT_FIRST = ".+'%!#$&*^~-"
_ADDRESS_LITERAL = re.compile(r"\[[\da-fA-F:.]{3,45}\]|\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_DOMAIN_LABELS = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63}){1,10}")
_ENDING = re.compile(r"[^\W\d_]{2}|xn--", re.IGNORECASE)

_UNFINISHED = re.compile(r"@[\w.-]*\Z")

_BRACKETED_AT = r"\s{0,2}[\[({<]\s{0,2}(?:at|@|ät)\s{0,2}[\])}>]\s{0,2}"
_WORD = r"[\w.+-]{1,64}"
_DOT = r"(?:\s{0,2}[\[({<]\s{0,2}(?:dot|punkt|\.)\s{0,2}[\])}>]\s{0,2}|\s{1,2}dot\s{1,2}|\.)"
_MAY_BE_SPELLED = re.compile(r"[\[({<]\s{0,2}(?:at|@|ät)\s{0,2}[\])}>]|\sat\s.{1,80}?\sdot\s", re.I)
_SPELLED = re.compile(
    rf"(?<![\w.+-])(?:[\w+-]{{1,64}}\s{{1,2}}dot\s{{1,2}}){{0,2}}{_WORD}(?:{_BRACKETED_AT}[\w-]{{1,63}}(?:{_DOT}[\w-]{{2,63}}){{1,4}}"
    r"|\s{1,2}at\s{1,2}[\w-]{1,63}(?:\s{1,2}dot\s{1,2}[a-z]{2,24}){1,3})(?!\w)",
    re.IGNORECASE,
)


def emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        start, end = _start(text, at), _end(text, at + 1)
        if start < at and end > at + 1:
            yield Span(start, end, "email")
        at = text.find("@", at + 1)
    if _MAY_BE_SPELLED.search(text):
        for match in _SPELLED.finditer(text):
            yield Span(*match.span(), "email")


def unfinished_email(text: str) -> Span | None:
    """An address that the end of *text* cuts off after the @."""
    match = _UNFINISHED.search(text, max(0, len(text) - MAX_LOCAL_CHARS))
    if not match:
        return None
    at = match.start()
    start = _start(text, at)
    return Span(start, len(text), "email") if start < at else None


def _start(text: str, at: int) -> int:
    before = text[max(0, at - MAX_LOCAL_CHARS) : at][::-1]
    match = _LOCAL_BACKWARDS.match(before)
    return at - len(match.group().rstrip(_NOT_FIRST)) if match else at


def _end(text: str, start: int) -> int:
    """The end of the domain that begins at *start*; *start* if there is none."""
    if match := _ADDRESS_LITERAL.match(text, start):
        return match.end()
    match = _DOMAIN_LABELS.match(text, start)
    if not match:
        return start
    labels = match.group().split(".")
    while len(labels) > 1 and not _ENDING.match(labels[-1]):
        labels.pop()
    return start + len(".".join(labels)) if len(labels) > 1 else start
