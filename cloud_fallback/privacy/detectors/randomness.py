"""Whether a text looks as if a machine had drawn it, and not like words, names, dates or paths."""

from __future__ import annotations

import math
import re
from collections import Counter

MIN_CHARS = 8
MIN_SPREAD_CHARS, MIN_ENTROPY_BITS = 12, 3.0
_LEAST_DRAWN = {"likely": 6, "surely": 8}
_TOKEN = re.compile(r"[A-Za-z0-9]+")
_RUN = re.compile(r"[A-Za-z]+|[0-9]+")
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_VOWEL = re.compile(r"[aeiouyAEIOUY]")
_AMOUNT = re.compile(
    r"\d+(?:px|pt|gb|mb|kb|tb|km|kg|cm|mm|ms|hz|st|nd|rd|th|fps|bit|k|m|b|x|s|h|d)", re.I
)
_DATE = re.compile(r"\d{8}T\d{4,6}Z?")
_WORDS = re.compile(r"(?:[A-Za-z]?[a-z]+|[A-Z]+)\d{0,4}|\d{1,4}[a-z]?|[a-z]+(?:[A-Z][a-z]+)+")
_MIN_WORD_CHARS, _MAX_CHARS_BETWEEN = 4, 5


def is_drawn(value: str, *, surely: bool = False) -> bool:
    """*surely*: after a word that is often before other things, too, such as "key"."""
    if len(value) < MIN_CHARS or " " in value or "://" in value:
        return False
    tokens = _TOKEN.findall(value)
    n_drawn = sum(len(token) for token in tokens if _is_drawn_token(token))
    if n_drawn >= _LEAST_DRAWN["surely" if surely else "likely"]:
        return True
    return not surely and _is_spread(value, tokens)


def _is_spread(value: str, tokens: list[str]) -> bool:
    """Of many different characters, with digits, and more than words with numbers."""
    if len(value) < MIN_SPREAD_CHARS or entropy_bits(value) < MIN_ENTROPY_BITS:
        return False
    if not any(map(str.isalpha, value)) or not any(map(str.isdigit, value)):
        return False
    return not all(_WORDS.fullmatch(token) or _is_of_words(token) for token in tokens)


def _is_drawn_token(token: str) -> bool:
    runs = _RUN.findall(token)
    if len(token) < 4 or _AMOUNT.fullmatch(token) or _DATE.fullmatch(token):
        return False
    if len(runs) > 2:
        return not _is_of_words(token)
    letters = max(runs, key=str.isalpha)
    if len(runs) == 2:
        if len(letters) > 1 and not _VOWEL.search(letters):
            return True
        return len(token) >= 16 or _is_uneven(letters)
    return letters.isalpha() and _is_uneven(letters)


def _is_of_words(token: str) -> bool:
    """X509WorkloadIdentity: words, and little between them."""
    words = [
        hump
        for hump in _HUMP.findall(token)
        if len(hump) >= _MIN_WORD_CHARS and not hump.isupper() and _VOWEL.search(hump)
    ]
    n_chars = sum(map(len, words))
    return n_chars >= 2 * _MIN_WORD_CHARS and len(token) - n_chars <= _MAX_CHARS_BETWEEN


def _is_uneven(letters: str) -> bool:
    """Upper and lower case without the order of words, or many letters without a vowel."""
    if len(letters) < MIN_CHARS:
        return False
    n_vowels = len(_VOWEL.findall(letters))
    return len(letters) / len(_HUMP.findall(letters)) < 3 or n_vowels * 8 < len(letters)


def entropy_bits(value: str) -> float:
    """Shannon's entropy, in bits a character."""
    counts, n = Counter(value).values(), len(value)
    return -sum(count / n * math.log2(count / n) for count in counts)
