"""A cheap guess at the language of a conversation: the script, then the commonest words."""

# ruff: noqa: RUF001 - other alphabets have look-alikes of Latin letters

from __future__ import annotations

import re
from collections import Counter

SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7a3\u1100-\u11ff]")),
    ("zh", re.compile("[\u4e00-\u9fff\u3400-\u4dbf]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
)
"""Japanese first: its texts hold Chinese characters as well."""

WORDS = {
    "en": "the and is of to in that it you what how for with are this can i my not was be do a an "
    "me there about he she they his her on at as by or no so we",
    "de": "der die das und ist nicht ein eine ich du wie was zu mit für auf den dem von sich wir",
    "fr": "le la les et est de des un une que qui dans pour je vous pas comment avec sur ce du",
    "es": "el la los las y es de un una que en por para con cómo qué no se del su más lo me",
    "it": "il lo la gli e è di un una che in per con come non si del della sono mi cosa più",
    "pt": "o a os as e é de um uma que em por para com como não se do da no na você eu mais",
    "nl": "de het een en is van niet ik je wat hoe voor met op dat die zijn er ook maar aan",
    "pl": "i w nie na się jest to że z do jak co po od dla czy o ale tak mi przez",
    "tr": "ve bir bu için ile ne nasıl de da çok mi mı olan gibi daha ben var en olarak",
}

SHARE_OF_SCRIPT = 0.2
MIN_WORDS = 3
SAMPLE_CHARS = 2000

_WORD = re.compile(r"[^\W\d_]+")
_SETS = {language: frozenset(words.split()) for language, words in WORDS.items()}


def language_of(text: str) -> str:
    """A two-letter code; "en" when nothing speaks for another one."""
    sample = text[-SAMPLE_CHARS:]
    n_letters = sum(map(str.isalpha, sample))
    for language, pattern in SCRIPTS:
        if len(pattern.findall(sample)) > SHARE_OF_SCRIPT * n_letters:
            return language
    # Each word counts once: English is full of "a", which is a word of Portuguese as well.
    found = set(_WORD.findall(sample.lower()))
    counts = Counter({language: len(words & found) for language, words in _SETS.items()})
    best = counts.most_common(1)
    return best[0][0] if best and best[0][1] >= MIN_WORDS and best[0][1] > counts["en"] else "en"
