"""International bank account numbers: their country's length, and the check digits of mod 97."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.spans import Span

_CANDIDATE = re.compile(
    r"(?<![^\W_])(?=([A-Z]{2}\d{2}(?:[ .-]?[A-Z0-9]){11,33}))", re.IGNORECASE | re.ASCII
)
_UNFINISHED = re.compile(
    r"(?<![^\W_])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){4,29}[ -]?\Z", re.IGNORECASE | re.ASCII
)
_LONGEST = 34
_REGISTRY = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27
DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28
IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22
MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24
SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _REGISTRY.split()}
"""SWIFT's IBAN registry."""


def ibans(text: str) -> Iterator[Span]:
    for match in _CANDIDATE.finditer(text):
        places = [i for i in range(*match.span(1)) if text[i].isalnum()]
        number = "".join(text[i] for i in places).upper()
        for length in _lengths(number):
            if passes_mod_97(number[:length]):
                yield Span(places[0], places[length - 1] + 1, "iban")
                break


def unfinished_iban(text: str) -> Span | None:
    """A number that the end of *text* cuts off, in a country that has them."""
    match = _UNFINISHED.search(text, max(0, len(text) - 2 * _LONGEST))
    if not match:
        return None
    found = "".join(filter(str.isalnum, match.group())).upper()
    if len(found) >= _LENGTHS.get(found[:2], 0) or sum(map(str.isdigit, found)) < len(found) // 2:
        return None
    return Span(match.start(), len(text.rstrip(" -")), "iban")


def _lengths(number: str) -> list[int]:
    known = _LENGTHS.get(number[:2])
    return [known] if known and known <= len(number) else []


def passes_mod_97(number: str) -> bool:
    """ISO 13616: the first four characters last, letters as 10 to 35, and 1 is left over."""
    turned = number[4:] + number[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
