"""The script of a letter."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

_RANGES = (
    (0x41, "latin"), (0x370, "greek"), (0x400, "cyrillic"), (0x530, "armenian"),
    (0x590, "hebrew"), (0x600, "arabic"), (0x700, "other"), (0x750, "arabic"), (0x780, "other"),
    (0x8A0, "arabic"), (0x900, "devanagari"), (0x980, "bengali"), (0xA00, "gurmukhi"),
    (0xA80, "gujarati"), (0xB00, "other"), (0xB80, "tamil"), (0xC00, "telugu"),
    (0xC80, "kannada"), (0xD00, "malayalam"), (0xD80, "other"), (0xE00, "thai"), (0xE80, "other"),
    (0x10A0, "georgian"), (0x1100, "hangul"), (0x1200, "ethiopic"), (0x13A0, "other"),
    (0x1E00, "latin"), (0x1F00, "greek"), (0x2000, "other"), (0x3005, "han"), (0x3040, "kana"),
    (0x3100, "other"), (0x3130, "hangul"), (0x3190, "other"), (0x31F0, "kana"), (0x3200, "other"),
    (0x3400, "han"), (0xA000, "other"), (0xAC00, "hangul"), (0xD7B0, "other"), (0xF900, "han"),
    (0xFB00, "other"), (0x20000, "han"), (0x323B0, "other"),
)  # fmt: skip
"""First code point and script; after Unicode's blocks."""
_STARTS = [start for start, _ in _RANGES]
_NAMES = [name for _, name in _RANGES]


def script_of(letter: str) -> str:
    """The script of a letter; "other" for rare ones."""
    place = bisect_right(_STARTS, ord(letter)) - 1
    return _NAMES[place] if place >= 0 else "other"


def scripts_in(text: str) -> Counter[str]:
    """How many letters of each script *text* has."""
    if text.isascii():
        n = sum(map(str.isalpha, text))
        return Counter({"latin": n}) if n else Counter()
    return Counter(script_of(letter) for letter in text if letter.isalpha())


def scripts_of(counts: Counter[str]) -> frozenset[str]:
    """The scripts that belong in a text with these letters: Japanese and Korean mix theirs."""
    scripts = {script for script, n in counts.items() if n >= 2}
    if scripts & {"kana", "hangul"}:
        scripts.add("han")
    if "han" in scripts:
        scripts.add("kana")
    return frozenset(scripts)


def characters_of(*scripts: str) -> str:
    """The ranges of *scripts*, for a class of characters in a regular expression."""
    ends = (*_STARTS[1:], 0x110000)
    return "".join(
        f"{chr(start)}-{chr(end - 1)}"
        for (start, name), end in zip(_RANGES, ends, strict=True)
        if name in scripts
    )
