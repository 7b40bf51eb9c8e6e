"""Numbers with check digits: payment cards (ISO/IEC 7812), and bank accounts (IBAN, ISO 13616).

No library: python-stdnum takes 0.1 s to load, takes five times as long for an IBAN, and rejects
valid ones of banks that it does not know. The lengths of IBANs would be needed beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.plain import Span

_CARD_RUN = re.compile(r"(?<![\w+])(?<!\d[.,])(?:\d{4}(?:\.\d{4}){3}|\d(?:[ -]{0,2}\d){11,})(?!\w)")
_UUID = re.compile(r"\d{8}(?:-\d{4}){3}-\d{12}")
_GROUPS_APART = re.compile(
    r"(?<![\w])(\d{4})([ ]{0,2}(?:[|/_.,:\t]|\r?\n)[ ]{0,2})"
    r"(?:\d{4}\2\d{4}\2\d{4}|\d{6}\2\d{5})(?!\d|\2\d{4}(?!\d)|[ ]?[.,][ ]{0,2}\d)"
)
"""Each in a line or a cell of its own, or with any sign between; more are a list of numbers."""
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]|2[2-7])\d{14}"  # Mastercard, Mir
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-59]|[689]\d)\d{11,16}"  # Diners Club
    r"|35\d{14,17}"  # JCB
    r"|6\d{15,18}"  # Discover, UnionPay, RuPay, Maestro
    r"|(?:5[0678]|8[12])\d{14,17}"  # Maestro, UnionPay, RuPay
    r"|9792\d{12}"  # Troy
)
_GROUP = re.compile(r"\d+")
_CARD_LENGTHS = range(13, 20)
_MIN_FIRST_GROUP = 4
_MAX_GROUPS = 6


_GAP = r"[ \t\n./_-]{0,3}"
_IBAN = re.compile(
    r"(?:(?<![^\W_])|(?<=IBAN))"
    rf"(?=([A-Z] ?[A-Z]{_GAP}\d ?\d(?:{_GAP}[A-Z0-9]){{11,33}}))",
    re.IGNORECASE | re.ASCII,
)
_UNFINISHED_IBAN = re.compile(
    r"(?<![^\W_])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){4,29}[ -]?\Z", re.IGNORECASE | re.ASCII
)
_LONGEST_IBAN = 34
_REGISTRY = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27
DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28
IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22
MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24
SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _REGISTRY.split()}
"""By country, from SWIFT's IBAN registry."""


def cards(text: str) -> Iterator[Span]:
    for match in _CARD_RUN.finditer(text):
        if _UUID.fullmatch(match.group()):
            continue
        groups = list(_GROUP.finditer(text, *match.span()))
        if is_card("".join(group.group() for group in groups)):
            yield Span(*match.span(), "card")
            continue
        for first in range(len(groups)):
            if n := _n_groups(groups[first : first + _MAX_GROUPS]):
                yield Span(groups[first].start(), groups[first + n - 1].end(), "card")
    for match in _GROUPS_APART.finditer(text):
        before = text[max(0, match.start() - len(match[2]) - 1) : match.start()]
        goes_on = before[:1].isdigit() and before[1:] == match[2]
        if not goes_on and is_card("".join(_GROUP.findall(match.group()))):
            yield Span(*match.span(), "card")


def _n_groups(groups: list[re.Match[str]]) -> int:
    """How many of the first groups of digits make a card number; others, such as a date or a
    security code, may stand around it. 0: none."""
    digits = ""
    if len(groups[0].group()) < _MIN_FIRST_GROUP:
        return 0
    for n, group in enumerate(groups, 1):
        digits += group.group()
        if len(digits) in _CARD_LENGTHS and is_card(digits):
            return n
    return 0


def is_card(digits: str) -> bool:
    return bool(_ISSUED.fullmatch(digits)) and passes_luhn(digits) and len(set(digits)) > 1


def passes_luhn(digits: str) -> bool:
    """Luhn: every second digit from the right counts double, as a sum of digits."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        places = [i for i in range(*match.span(1)) if text[i].isalnum()]
        number = "".join(text[i] for i in places).upper()
        length = _IBAN_LENGTHS.get(number[:2], 0)
        if 0 < length <= len(number) and _is_iban(number[:length]):
            yield Span(places[0], places[length - 1] + 1, "iban")


def _is_iban(number: str) -> bool:
    return sum(map(str.isdigit, number)) * 2 >= len(number) and passes_mod_97(number)


def unfinished_iban(text: str) -> Span | None:
    """A number that the end of *text* cuts off, of a country that has them."""
    match = _UNFINISHED_IBAN.search(text, max(0, len(text) - 2 * _LONGEST_IBAN))
    if not match:
        return None
    found = "".join(filter(str.isalnum, match.group())).upper()
    length = _IBAN_LENGTHS.get(found[:2], 0)
    if len(found) >= length or sum(map(str.isdigit, found)) < len(found) // 2:
        return None
    return Span(match.start(), len(text.rstrip(" -")), "iban")


def passes_mod_97(number: str) -> bool:
    """The first four characters come last, letters count as 10 to 35, and the remainder is 1."""
    turned = number[4:] + number[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
