"""Secrets by the word before or after them: passwords, keys, tokens, PINs, codes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from spillover.cloud_fallback.privacy.detectors.joins import Candidate, candidates
from spillover.cloud_fallback.privacy.detectors.labels import Label, labels
from spillover.cloud_fallback.privacy.detectors.values import accepts, is_mixed, stands_for_one
from spillover.cloud_fallback.privacy.plain import Span

_BEFORE_CHARS = 160
_SAID_BEFORE = re.compile(
    r"""(?:["'`“«](?P<quoted>[^"'`“”«»\n\0]{4,128})["'`”»]|(?<!\S)(?P<plain>[^\s\0"'`]{4,128}))"""
    r"""(?:\s\w{1,12}){0,2}?[,.]?\s(?:(?:is|was|that's|that\sis|this\sis|it's|ist|war|est|es|è|é|это|jest|är|er|as|als|como|comme|come)\s"""
    r"""(?:(?:the|my|our|your|his|her|their|a|an|mein|meine|das|der|die|le|la|mon|ma|el|mi|il|mio|mia|o"""
    r"""|minha|meu|mijn|min|mitt|мой|наш|Google|new)\s){0,3}|\(\s?(?:the\s|my\s)?)(?:[\w-]{1,20}\s){0,2}\Z""",
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"""["'*_)]{0,3}\s{0,2}(?:(?:is|are|sind|lauten|sont|son|são|sono)\s)?[:=]?\s{0,3}[*`"']{0,3}"""
    r"""[\w.@+-]{2,64}[`"']?\s{0,2}[/:|]\s{0,2}[`"']?(?P<plain>[^\s\0"'`]{4,128})""",
    re.IGNORECASE,
)
_DIGIT_GROUPS = re.compile(r"\d{1,4}(?:[ -]\d{1,4}){1,3}(?!\w)")
_THEN = re.compile(
    r"[\"'`”»]?[,;.]?\s(?:(?:but|and|then|or|now|later|before|it's|its|is|was|to|und|oder|jetzt|auf|et|à|ou|y|o|a)\s){1,4}"
    r"[\"'`“«]?(?P<plain>[^\s\0\"'`”»]{4,128})",
    re.IGNORECASE,
)
_NEXT_FIELD = re.compile(r"[&;,](?:\s|\Z|[A-Za-z_][\w. -]{0,40}[=:])|[&;,]?\\[nrt]|<|\|")
_OF_CODE = re.compile(r"[,;<>(){}\[\]&|]")
_LATIN = re.compile(r"[!-~\u00a1-\u024f]+")


def labelled(text: str) -> Iterator[Span]:
    for label in labels(text):
        found = _first_accepted(text, label)
        if found is not None:
            yield Span(found.start, found.end, "secret")
            if label.sort == "password" and (other := _another(text, found.end)):
                yield other


def _first_accepted(text: str, label: Label) -> Candidate | None:
    if label.sort == "login" and (found := _password_of_pair(text, label)):
        return found
    for found in candidates(text, label.end):
        found = found if found.is_quoted else _trimmed(text, label, found)
        found = _with_more_digits(text, label, found)
        if found.start < found.end and accepts(text, label, found):
            return found
    return _said_before(text, label)


def _trimmed(text: str, label: Label, found: Candidate) -> Candidate:
    """*found* without the next field, and without the punctuation of the sentence around it."""
    start, end = found.start, found.end
    stop = _NEXT_FIELD if label.sort in ("password", "login") else _OF_CODE
    if match := stop.search(text, start + 1, end):
        end = match.start()
    if text[start].isascii() and (latin := _LATIN.match(text, start, end)):
        end = latin.end()
    value = text[start:end].rstrip(".,;:?")
    while value and value[-1] in ")]}>*_\"'" and _is_unbalanced(value):
        value = value[:-1].rstrip(".,;:?")
    return replace(found, end=start + len(value))


def _with_more_digits(text: str, label: Label, found: Candidate) -> Candidate:
    """A number is said in groups: 90 42 17."""
    if label.sort in ("pin", "code", "password") and text[found.start : found.end].isdigit():
        groups = _DIGIT_GROUPS.match(text, found.start)
        if groups and groups.end() > found.end:
            return replace(found, end=groups.end())
    return found


def _another(text: str, end: int) -> Span | None:
    """A second password: "from … to …", "was … and is now …"."""
    match = _THEN.match(text, end)
    if not match:
        return None
    value = match["plain"].rstrip(".,;:?")
    start = match.start("plain")
    return Span(start, start + len(value), "secret") if is_mixed(value) else None


def _is_unbalanced(value: str) -> bool:
    opening = {")": "(", "]": "[", "}": "{", ">": "<"}.get(value[-1])
    return opening not in value if opening else True


def _password_of_pair(text: str, label: Label) -> Candidate | None:
    match = _PAIR.match(text, label.end)
    if not match:
        return None
    found = _trimmed(text, label, Candidate(*match.span("plain"), "set"))
    return found if is_mixed(text[found.start : found.end]) else None


def _said_before(text: str, label: Label) -> Candidate | None:
    """As in "hunter2 is my password"."""
    match = _SAID_BEFORE.search(text, max(0, label.start - _BEFORE_CHARS), label.start)
    if not match:
        return None
    name = "quoted" if match["quoted"] else "plain"
    found = Candidate(*match.span(name), "said", name == "quoted")
    value = text[found.start : found.end]
    if name == "plain" and (stands_for_one(value) or not value.isascii()):
        return None
    return found if accepts(text, label, found) else None
