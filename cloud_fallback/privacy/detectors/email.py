"""E-mail addresses, also those that are spelled out to hide them."""

# ruff: noqa: E501 - an alternative of a pattern stays in one line

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.plain import Span

MAX_LOCAL_CHARS = 128
_LETTER = r"\w\u0300-\u036f\u0900-\u0dff\u0e31-\u0e4e"
"""Letters of all alphabets, and the marks over, under and beside them."""
_LOCAL_BACKWARDS = re.compile(rf"[{_LETTER}.+'%!#$&*^~-]+")
_QUOTED_LOCAL = re.compile(r'\\?"(?:[^"\\\n\0]|\\[^\n\0]){1,64}"@')
_NOT_FIRST = ".+'%!#$&*^~-"
_ADDRESS_LITERAL = re.compile(r"\[[\da-fA-F:.]{3,45}\]|\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_DOMAIN_LABELS = re.compile(
    rf"[{_LETTER}-]{{1,63}}(?:(?:\.|\[\.\]|\(\.\)|\[dot\]|\(dot\))[{_LETTER}-]{{1,63}}){{1,10}}"
)
_DOMAIN_LABEL = re.compile(rf"[{_LETTER}-]{{1,63}}")
_ENDING = re.compile(rf"[^\W\d_][^\W\d_]|[^\W\d_][{_LETTER}]|xn--", re.IGNORECASE)

_GIT = re.compile(r"git@[\w.-]+:")
"""Names a repository, not a person."""

_UNFINISHED = re.compile(r"@[\w.-]*\Z")

_AT_WORDS = "at|@|ät|arroba|arobase|chiocciola|собака|kukac|małpa|snabel-a|apenstaartje"
_DOT_WORDS = r"dot|punkt|punto|point|ponto|точка|kropka|pont|punt|\."
_BRACKETED_AT = rf"\s{{0,2}}[\[({{<]\s{{0,2}}(?:{_AT_WORDS})\s{{0,2}}[\])}}>]\s{{0,2}}"
_WORD = r"[\w.+-]{1,64}"
_DOT = rf"(?:\s{{0,2}}[\[({{<]\s{{0,2}}(?:{_DOT_WORDS})\s{{0,2}}[\])}}>]\s{{0,2}}|\s{{1,2}}(?:{_DOT_WORDS})\s{{1,2}}|\.)"
_MAY_BE_SPELLED = re.compile(
    rf"[\[({{<]\s{{0,2}}(?:{_AT_WORDS})\s{{0,2}}[\])}}>]"
    r"|[\s_-]at[\s_-].{1,80}?[\s_-]dot[\s_-]"
    r"|\s(?:arroba|arobase|chiocciola|собака|kukac|małpa|snabel-a|apenstaartje)\s",
    re.IGNORECASE,
)
_SPELLED = re.compile(
    rf"(?<![\w.+-])(?:[\w+-]{{1,64}}\s{{1,2}}(?:{_DOT_WORDS})\s{{1,2}}){{0,2}}{_WORD}(?:{_BRACKETED_AT}[\w-]{{1,63}}(?:{_DOT}[\w-]{{2,63}}){{1,4}}"
    r"|\s{1,2}at\s{1,2}(?!(?:the|a|an|this|that|my|our)\b)[\w-]{1,63}(?:\s{1,2}dot\s{1,2}[a-z]{2,24}){1,3}"
    rf"|\s{{1,2}}(?:arroba|arobase|chiocciola|собака|kukac|małpa|snabel-a|apenstaartje)\s{{1,2}}[\w-]{{1,63}}(?:\s{{0,2}}(?:{_DOT_WORDS})\s{{0,2}}[^\W\d_]{{2,24}}){{1,3}})(?!\w)"
    r"|(?<![A-Za-z0-9])[a-z0-9]{1,32}(?:[._-][a-z0-9]{1,32}){0,3}?[_-]at[_-][a-z0-9]{1,63}(?:[_-]dot[_-][a-z]{2,24}){1,3}(?![A-Za-z0-9])",
    re.IGNORECASE,
)


def emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        start, end = _start(text, at), _end(text, at + 1)
        if start < at and end > at + 1 and not _GIT.match(text, start, end + 1):
            yield Span(start, end, "email")
        at = text.find("@", at + 1)
    for match in _QUOTED_LOCAL.finditer(text):
        if (end := _end(text, match.end())) > match.end():
            yield Span(match.start(), end, "email")
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
    labels = list(_DOMAIN_LABEL.finditer(match.group()))
    while len(labels) > 1 and not _ENDING.match(labels[-1].group()):
        labels.pop()
    return start + labels[-1].end() if len(labels) > 1 else start
