"""Payment card numbers: the lengths and first digits that are issued, and Luhn's check digit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.spans import Span

_RUN = re.compile(r"(?<!\w)(?<!\d[.,])(?:\d{4}(?:\.\d{4}){3}|\d(?:[ -]{0,2}\d){11,})(?!\w)")
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
_LENGTHS = range(13, 20)
_MIN_FIRST_GROUP = 4
_MAX_GROUPS = 6


def cards(text: str) -> Iterator[Span]:
    for match in _RUN.finditer(text):
        groups = list(_GROUP.finditer(text, *match.span()))
        digits = "".join(group.group() for group in groups)
        if is_card(digits):
            yield Span(*match.span(), "card")
            continue
        for first in range(len(groups)):
            if n := _n_groups(groups[first : first + _MAX_GROUPS]):
                yield Span(groups[first].start(), groups[first + n - 1].end(), "card")


def _n_groups(groups: list[re.Match[str]]) -> int:
    """How many of the first groups of digits are a card's number; others may stand around it, such
    as a date or a check value. 0: none."""
    digits = ""
    if len(groups[0].group()) < _MIN_FIRST_GROUP:
        return 0
    for n, group in enumerate(groups, 1):
        digits += group.group()
        if len(digits) in _LENGTHS and is_card(digits):
            return n
    return 0


def is_card(digits: str) -> bool:
    return bool(_ISSUED.fullmatch(digits)) and passes_luhn(digits) and len(set(digits)) > 1


def passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: every second digit from the right counts double, as a sum of digits."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
