"""Secrets made of ordinary words: the recovery phrases of wallets (BIP 39) and passphrases."""

# ruff: noqa: RUF001, E501 - look-alikes of Latin letters; an alternative of a pattern in one line

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from spillover.cloud_fallback.privacy.detectors.words import SENTENCE_WORDS
from spillover.cloud_fallback.privacy.plain import Span
from spillover.cloud_fallback.re2_patterns import compile_pattern

_LENGTHS = frozenset({12, 15, 18, 21, 24})
_MIN_AFTER_LABEL = 4
_RUN = re.compile(
    r"(?<![\w'’.=-])[a-z]{3,8}( |, |,|\r?\n)[a-z]{3,8}(?:\1[a-z]{3,8}){10,22}(?![\w'’.=-]|\1[a-z])"
    r"|(?<![\w.])1[.):]?\s{0,2}[a-z]{3,8}(?:[\s,;]{1,4}\d{1,2}[.):]?\s{0,2}[a-z]{3,8}){11,23}(?![\w])"
)
_WORD = re.compile(r"[^\W\d_]+")
_LABEL = re.compile(
    r"(?:(?:seed|recovery|mnemonic|backup|secret|wallet)\s(?:phrase|words?|sentence)|mnemonic|seed"
    r"|pass[ -]?phrase|pass[ -]?sentence|diceware|wiederherstellungs(?:phrase|wörter)|seed-?phrase|passsatz"
    r"|phrase\s(?:de\srécupération|secrète|mnémonique)|frase\s(?:semilla|de\srecuperación|de\srecuperação|mnemonica|seme)"
    r"|сид[ -]?фраза|мнемоническая\sфраза|секретная\sфраза)"
    r"[\"'*_]{0,3}(?:\s(?:for|of|to)\s[\w ]{1,30}?)?"
    r"(?:\s{0,3}[:=-]|\s(?:is|are|ist|lautet|est|es|é|è))\s{0,4}[\"'`*«“]{0,2}"
    r"(?P<words>(?:\d{1,2}[.):]?\s{0,2})?[^\W\d_]{2,12}(?:(?:,?[ ]{1,3}|,?[ ]?\r?\n[ ]{0,4}|-)(?:\d{1,2}[.):]?\s{0,2})?[^\W\d_]{2,12}){3,23})",
    re.IGNORECASE,
)


_LABEL_WORDS = (
    "phrase",
    "seed",
    "mnem",
    "recovery",
    "backup",
    "diceware",
    "wiederherst",
    "passsatz",
)
_OTHER_LABEL_WORDS = ("frase", "фраза", "secret", "wallet")


@cache
def _long_run() -> Any:
    """What a run cannot be without; RE2 says faster that there is none."""
    words = rf"(?:[, \r\n]{{1,2}}[a-z]{{3,8}}){{{min(_LENGTHS) - 1}}}"
    return compile_pattern(
        rf"\b[a-z]{{3,8}}{words}\b|\b12[.):]?\s{{0,2}}[a-z]{{3,8}}\b", "the run of words"
    )


def phrases(text: str) -> Iterator[Span]:
    if _long_run().search(text):
        for match in _RUN.finditer(text):
            words = _WORD.findall(match.group())
            begins = not text[max(0, match.start() - 2) : match.start()].strip(", \r\n").isalpha()
            if begins and len(words) in _LENGTHS and _are_drawn(words):
                yield Span(*match.span(), "secret")
    folded = text.casefold()
    if not any(word in folded for word in _LABEL_WORDS + _OTHER_LABEL_WORDS):
        return
    for match in _LABEL.finditer(text):
        start = match.start("words")
        if n_chars := _phrase_chars(match["words"]):
            yield Span(start, start + n_chars, "secret")


def _phrase_chars(said: str) -> int:
    """How much of what was said after a label is the phrase; 0: it is a sentence."""
    line = said.split("\n")[0]
    if len(_WORD.findall(line)) >= _MIN_AFTER_LABEL:
        said = line.rstrip()
    words = list(_WORD.finditer(said))
    n_drawn = next(
        (n for n, word in enumerate(words) if word.group().lower() in SENTENCE_WORDS), len(words)
    )
    if n_drawn == len(words):
        return len(said) if n_drawn >= _MIN_AFTER_LABEL else 0
    whole = max((length for length in _LENGTHS if length <= n_drawn), default=0)
    return words[whole - 1].end() if whole else 0


def _are_drawn(words: list[str]) -> bool:
    return not any(word.lower() in SENTENCE_WORDS for word in words)
