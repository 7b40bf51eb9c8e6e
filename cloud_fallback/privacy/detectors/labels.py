"""Finds the words and names after which a private text may follow: "password", API_KEY, clé."""

# ruff: noqa: RUF001 - signs of other writings

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import Struct

from spillover.cloud_fallback.privacy.detectors.words import (
    CODE_HEADS,
    COMPOUNDS,
    HARMLESS_TAILS,
    INTENSIFIERS,
    NEUTRAL_TAILS,
    NOT_SECRET,
    UNINFLECTED,
    WHOLE_ONLY,
    WORDS,
    Sort,
)
from spillover.cloud_fallback.re2_patterns import compile_pattern, escape_pattern

MAX_NAME_CHARS = 64
MAX_ENDING_CHARS = 4
"""Of an inflected word: Lösenordet, паролями."""
_MAX_MEMORY_BYTES = 1 << 23
_BLANK = re.compile(r"[ _-]")
_SORT_OF: dict[str, Sort] = {
    _BLANK.sub("", word): sort for sort in reversed(WORDS) for word in WORDS[sort]
}
_UNSPACED_CHARS = r"\u0e00-\u0e7f\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Of writings without blanks: a word of other letters ends there."""
_NAME_BEFORE = re.compile(rf"(?:(?![{_UNSPACED_CHARS}])[\w.-])*\Z")
_NAME_AFTER = re.compile(rf"(?:(?![{_UNSPACED_CHARS}])[\w.-])*")
_SEGMENT = re.compile(r"[^\W\d_]+|\d+")
_LETTERS = re.compile(rf"(?:(?![{_UNSPACED_CHARS}])[^\W\d_])+")
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\WA-Z\d_]+|[^\W_]+")
_WORD_BEFORE = re.compile(r"([^\W\d_]+)[ '’-]{1,2}\Z")
_UNSPACED = re.compile(f"[{_UNSPACED_CHARS}]")
_CODE_TAILS = ("kod", "koodi", "код")
"""As in PIN-koodi."""
_PLACEHOLDER = re.compile(r"\[[A-Z_]+_\d+\]")
_API = re.compile(r"(?<![A-Za-z])API(?![a-z])")


class Label(Struct, frozen=True):
    """text[start:end] promises a private text of *sort*."""

    start: int
    end: int
    sort: Sort
    is_variable: bool = False
    """Written like the variables of an environment: DB_PASSWORD."""


@cache
def _pattern() -> Any:
    words = sorted({word for words in WORDS.values() for word in words})
    either = "|".join(escape_pattern(word).replace("\\ ", "[ _-]?") for word in words)
    return compile_pattern(
        f"(?i){either}",
        "the list of words before secrets",
        max_memory_bytes=_MAX_MEMORY_BYTES,
        longest_match=True,
    )


def labels(text: str) -> Iterator[Label]:
    """In order. Linear in the length of *text*."""
    for match in _pattern().finditer(text):
        start, end = match.span()
        label = _label(text, start, end) or _hidden_label(text, start, end)
        if label is not None:
            yield label


def _hidden_label(text: str, start: int, end: int) -> Label | None:
    """A word that another one overlapped: rootPassword has an otp."""
    if _begins_a_word(text, start) or not text[start].isascii():
        return None
    match = _pattern().search(text[start + 1 : end + MAX_NAME_CHARS])
    if match is None or match.start() >= end - start - 1:
        return None
    return _label(text, start + 1 + match.start(), start + 1 + match.end())


def _label(text: str, start: int, end: int) -> Label | None:
    word = _BLANK.sub("", text[start:end].lower())
    sort = _SORT_OF[word]
    if _UNSPACED.match(word):
        return Label(start, end, _with_api(text, start, end, sort))
    first, last = _name_around(text, start, end)
    is_part = not _begins_a_word(text, start) and word in WHOLE_ONLY
    if is_part and _segments(text[first:end])[-1] not in COMPOUNDS:
        return None
    ending = _ending(text, end)
    if ending not in ("", "s") and (word in UNINFLECTED or len(ending) > MAX_ENDING_CHARS):
        return None
    heads = _segments(text[first:start])
    if not heads and (said := _WORD_BEFORE.search(text, max(0, start - MAX_NAME_CHARS), start)):
        heads = [said[1].lower()]
    tail = [ending.removesuffix("s"), *_segments(text[end + len(ending) : last])]
    judged = _judged(sort, word, heads, tail)
    if judged is None:
        return None
    name = text[first:last]
    if _PLACEHOLDER.match(text, max(0, first - 1), last + 1):
        return None
    is_variable = name.isupper() and ("_" in name or word in ("password", "token", "secret"))
    if is_variable and judged == "key" and heads:
        judged = "secret"
    return Label(first, last, _with_api(text, start, last, judged), is_variable)


def _name_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The name that text[start:end] is a part of."""
    before = _NAME_BEFORE.search(text, max(0, start - MAX_NAME_CHARS), start)
    after = _NAME_AFTER.match(text, end, min(len(text), end + MAX_NAME_CHARS))
    assert before is not None
    assert after is not None
    return before.end() - len(before.group().lstrip(".-")), end + len(after.group().rstrip(".-"))


def _begins_a_word(text: str, start: int) -> bool:
    before = text[start - 1 : start]
    if _UNSPACED.match(before):
        return True
    return not before.isalpha() or (text[start].isupper() and before.islower())


def _ending(text: str, end: int) -> str:
    """What follows the word within its word: an inflection, or the rest of another word."""
    rest = _LETTERS.match(text, end, min(len(text), end + MAX_NAME_CHARS))
    if rest is None or (text[end].isupper() and text[end - 1].islower()):
        return ""
    hump = _HUMP.match(rest.group())
    return hump.group().lower() if hump else ""


def _segments(name: str) -> list[str]:
    """The words of a name, in lower case: accessToken_2 is access, token, 2."""
    return [hump.lower() for segment in _SEGMENT.findall(name) for hump in _HUMP.findall(segment)]


def _judged(sort: Sort, word: str, heads: list[str], tail: list[str]) -> Sort | None:
    if any(one in HARMLESS_TAILS for one in tail):
        return None
    tail = tail[1:]
    if sort == "code" and word == "code" and not (heads and heads[-1] in CODE_HEADS):
        return None
    if sort in ("secret", "key", "pin") and heads and heads[-1] in NOT_SECRET:
        return None
    if any(
        not (one.isdigit() or one in NEUTRAL_TAILS or one.startswith(_CODE_TAILS)) for one in tail
    ):
        return "key"
    if sort == "key" and any(head in INTENSIFIERS for head in heads[-2:]):
        return "secret"
    return sort


def _with_api(text: str, start: int, end: int, sort: Sort) -> Sort:
    """A key beside "API" is a secret in every language: clé API, chave de API, ключ API."""
    if sort == "key" and _API.search(text, max(0, start - 12), end + 12):
        return "secret"
    return sort
