"""Folds text to what counts when two texts are compared.

White space and invisible characters do not count; case, the kind of quotation marks and dashes, and
the composition of accents make no difference. Each character is folded by itself, so a text folds
to the same units however it is cut.
"""

from __future__ import annotations

import unicodedata

_INVISIBLE = "\u00ad\u200b\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"
_ALIKE = {
    "'": "‘’‚‛′´",  # noqa: RUF001 - look-alikes are the point
    '"': "“”„‟″«»",
    "-": "‐‑‒–—―−",  # noqa: RUF001
    "...": "…",
}


class _Units(dict[int, str]):
    """Code point to its units; filled as characters are met."""

    def __missing__(self, code_point: int) -> str:
        character = chr(code_point)
        if character.isspace():
            units = ""
        else:
            # Twice: some capitals decompose into a letter that has a small form.
            units = unicodedata.normalize("NFD", character.casefold()).casefold()
        if len(self) < 1 << 16:
            self[code_point] = units
        return units


def _start() -> _Units:
    units = _Units(dict.fromkeys(map(ord, _INVISIBLE), ""))
    for unit, characters in _ALIKE.items():
        units.update(dict.fromkeys(map(ord, characters), unit))
    return units


_UNITS = _start()


def fold(text: str) -> str:
    """The units of *text*. fold(a + b) == fold(a) + fold(b)."""
    return text.translate(_UNITS)


def raw_length(text: str, n_units: int) -> int:
    """Length of the shortest beginning of *text* that has at least *n_units* units."""
    if n_units <= 0:
        return 0
    for index, character in enumerate(text, 1):
        n_units -= len(_UNITS[ord(character)])
        if n_units <= 0:
            return index
    return len(text)


def raw_length_from_end(text: str, n_units: int) -> int:
    """Length of the shortest end of *text* that has at least *n_units* units."""
    for n, character in enumerate(reversed(text)):
        if n_units <= 0:
            return n
        n_units -= len(_UNITS[ord(character)])
    return len(text)


def n_leading_blank(text: str) -> int:
    """How many first characters of *text* fold to nothing."""
    return next((n for n, character in enumerate(text) if fold(character)), len(text))


def n_trailing_blank(text: str) -> int:
    """How many last characters of *text* fold to nothing."""
    return next((n for n, character in enumerate(reversed(text)) if fold(character)), len(text))


def split_units(character: str) -> list[tuple[str, str]]:
    """Each unit of *character* with the units that come after it."""
    units = fold(character)
    return [(unit, units[index + 1 :]) for index, unit in enumerate(units)]
