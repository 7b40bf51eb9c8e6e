"""Numbers that states give to people. Some have a shape and check digits that nothing else has;
others count only after their name.

No library, as for account.py: python-stdnum checks numbers but does not find them in a text, so
that all patterns would be needed beside it.
"""

# ruff: noqa: RUF001, E501 - look-alikes of Latin letters; an alternative of a pattern in one line

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import cycle
from typing import Any, TypeAlias

from spillover.cloud_fallback.privacy.detectors.account import passes_luhn
from spillover.cloud_fallback.privacy.plain import Span
from spillover.cloud_fallback.re2_patterns import compile_pattern

Check: TypeAlias = Callable[[str], bool]
"""Takes the letters and digits of a number, in upper case."""

_VERHOEFF_D = [
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
]
_VERHOEFF_P = [
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
]


def _sum(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, cycle(weights), strict=False))


def _weighted(weights: Sequence[int], modulus: int, *, ten: int = 0) -> Check:
    """The last digit completes the weighted sum of the others to a multiple of *modulus*; *ten* is
    what 10 is written as."""

    def check(number: str) -> bool:
        rest = (-_sum(number[:-1], weights)) % modulus
        return (ten if rest == 10 else rest) == int(number[-1])

    return check


def _date(number: str, order: str = "ymd") -> bool:
    """Whether the first six digits are a date; the order says which is the year."""
    parts = {name: int(number[2 * i : 2 * i + 2]) for i, name in enumerate(order)}
    return 1 <= parts["m"] % 50 % 20 <= 12 and 1 <= parts["d"] % 40 <= 31


def _verhoeff(number: str) -> bool:
    check = 0
    for index, digit in enumerate(reversed(number)):
        check = int(_VERHOEFF_D[check][int(_VERHOEFF_P[index % 8][int(digit)])])
    return check == 0


def _chinese(number: str) -> bool:
    total = sum(
        (10 if digit == "X" else int(digit)) * pow(2, 17 - index, 11)
        for index, digit in enumerate(number)
    )
    return total % 11 == 1 and _date(number[8:])


def _french(number: str) -> bool:
    digits = number.replace("2A", "19").replace("2B", "18")
    return digits.isdigit() and 97 - int(digits[:13]) % 97 == int(digits[13:])


def _spanish(number: str) -> bool:
    digits = number[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == number[-1]


_ITALIAN_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2
        + (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def _italian(number: str) -> bool:
    total = sum(
        _ITALIAN_ODD[c] if index % 2 == 0 else int(c, 36) - (10 if c.isalpha() else 0)
        for index, c in enumerate(number[:15])
    )
    return chr(65 + total % 26) == number[15]


def _belgian(number: str) -> bool:
    rest = int(number[9:])
    return rest in (97 - int(number[:9]) % 97, 97 - int("2" + number[:9]) % 97)


def _finnish(number: str) -> bool:
    check = int(number[:6] + number[-4:-1]) % 31
    return _date(number, "dmy") and "0123456789ABCDEFHJKLMNPRSTUVWXY"[check] == number[-1]


def _brazilian(number: str) -> bool:
    first = _weighted(range(10, 1, -1), 11)(number[:10])
    return first and _weighted(range(11, 1, -1), 11)(number) and len(set(number)) > 1


def _korean(number: str) -> bool:
    check = (11 - _sum(number[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return _date(number) and check == int(number[12])


def _singaporean(number: str) -> bool:
    total = _sum(number[1:8], (2, 7, 6, 5, 4, 3, 2)) + (4 if number[0] in "TG" else 0)
    return ("JZIHGFEDCBA" if number[0] in "ST" else "XWUTRQPNMLK")[total % 11] == number[-1]


def _chilean(number: str) -> bool:
    total = _sum(number[-2::-1], (2, 3, 4, 5, 6, 7))
    return "0123456789K"[(-total) % 11] == number[-1]


def _russian(number: str) -> bool:
    return _sum(number[:9], range(9, 0, -1)) % 101 % 100 == int(number[9:])


def _mexican(number: str) -> bool:
    letters = "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ"
    total = sum(letters.index(c) * (18 - index) for index, c in enumerate(number[:17]))
    return _date(number[4:]) and (-total) % 10 == int(number[17])


def _american(number: str) -> bool:
    return (
        "000" != number[:3] != "666"
        and number[0] != "9"
        and number[3:5] != "00"
        and (number[5:] != "0000")
    )


def _british(number: str) -> bool:
    return number[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def _swedish(number: str) -> bool:
    return _date(number) and passes_luhn(number)


def _czech(number: str) -> bool:
    return _date(number) and int(number) % 11 == 0


def _taiwanese(number: str) -> bool:
    first = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(number[0]) + 10
    return (first // 10 + first % 10 * 9 + _sum(number[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1))) % 10 == 0


_SHAPES: tuple[tuple[str, Check], ...] = (
    (r"\d{3}-\d{2}-\d{4}", _american),
    (r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", _british),
    (r"[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", _french),
    (r"(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", _spanish),
    (r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]", _italian),
    (r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", _belgian),
    (r"\d{6}[-+]\d{4}", _swedish),
    (r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", _finnish),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", _brazilian),
    (r"[1-6]\d{5}(?:19|20)\d{9}[0-9X]", _chinese),
    (r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}", _verhoeff),
    (r"\d{6}-[1-8]\d{6}", _korean),
    (r"[STFG]\d{7}[A-Z]", _singaporean),
    (r"[A-Z][12]\d{8}", _taiwanese),
    (r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", _mexican),
    (r"\d{1,2}\.\d{3}\.\d{3}-[0-9K]", _chilean),
    (r"(?:20|2[3-7]|30|33|34)-\d{8}-\d", _weighted((5, 4, 3, 2, 7, 6, 5, 4, 3, 2), 11, ten=9)),
    (r"756\.\d{4}\.\d{4}\.\d{2}", _weighted((1, 3), 10)),
    (r"\d{3}-\d{3}-\d{3} \d{2}", _russian),
    (r"\d{6}/\d{4}", _czech),
    (r"[A-Z&Ñ]{4}\d{6}[A-Z0-9]{2}[0-9A]", lambda number: _date(number[4:])),
)
_BY_SHAPE = tuple(
    (re.compile(rf"(?<![\w.,/+-])(?:{shape})(?![\w/]|[.,-]\d)"), check) for shape, check in _SHAPES
)
_TWO_DIGITS = re.compile(r"\d\D{0,8}\d")
_NAMES = r"""ssn|social\ssecurity(?:\s(?:number|no))?|itin|national\s(?:insurance|id(?:entity|entification)?)
    |ni\snumber|nino|nhs(?:\s(?:number|no))?|tax\s(?:id|file|identification)|tin|tfn|sin|medicare|aadhaar|aadhar
    |pan(?:\scard)?|nric|fin|my\s?kad|id\snumber|id\scard|identity\s(?:card|number)|passport|driv(?:er'?s|ing)\slicen[cs]e
    |steuer-?(?:id|nummer|identifikationsnummer)\w{0,2}|steuerliche\sidentifikationsnummer|sozialversicherungsnummer
    |rentenversicherungsnummer|svnr|(?:personal)?ausweis(?:nummer|nr)?|reisepass(?:nummer|nr)?|führerschein(?:nummer)?|ahv(?:-?nummer)?
    |sécurité\ssociale|numéro\sfiscal|nir|insee|passeport|permis\sde\sconduire|carte\sd'identité|niss|rijksregisternummer|numéro\snational
    |dni|nie|nif|nss|cuil|cuit|curp|rut|run|cédula|cedula|pasaporte|seguridad\ssocial|cpf|rg|cnh|passaporte|contribuinte
    |codice\sfiscale|carta\sd'identità|bsn|burgerservicenummer|sofinummer|paspoort(?:nummer)?|personnummer|samordningsnummer
    |fødselsnummer|fodselsnummer|cpr(?:-?nummer)?|hetu|henkilötunnus|kennitala|isikukood|asmens\skodas|personas\skods
    |pesel|nip|dowód(?:\sosobisty)?|rodné\sčíslo|rodne\scislo|cnp|egn|егн|jmbg|oib|emšo|taj(?:-?szám)?|adóazonosító|amka|αμκα|αφμ
    |tc\skimlik|kimlik|t\.c\.|pps(?:n)?|снилс|инн|паспорт|рнокпп|身份证|身份證|居民身份证|护照|護照|統一編號|マイナンバー|個人番号|パスポート
    |주민등록번호|여권|cccd|cmnd|nik|ktp|sss|umid|מספר\sזהות|ת\.ז\.|teudat\szehut|رقم\sالهوية|आधार|पैन"""
_AFTER_NAME = re.compile(
    r"(?:号码?|號碼?|番号|番號|번호|का|नंबर|संख्या)?(?![A-Za-zäöüßéèí])"
    r"[\"'`*_)\]]{0,3}[:.#=|はは은는是为-]{0,2}\s{0,3}"
    r"(?:(?:number|numbers|no|nr|nummer|num|numero|número|numéro|is|ist|lautet|est|es|è|é|är|er|on|to"
    r"|je|este|номер|це|это|है|न|the|my|de|of|da|do|:|\#|=)[.:#\"'`*|]{0,2}\s{0,3}){0,4}"
    r"[\"'`*|]{0,3}\s{0,2}(?<![\w.,/+-])"
    r"((?=[A-Z]{0,4}[ -]?\d|[A-Z]{2,6}\d|[A-Z0-9]{8,10}\b)[A-Z0-9](?:[ ./-]{0,2}[A-Z0-9]){4,21})(?![\w])",
    re.IGNORECASE,
)
_MIN_NAMED_DIGITS = 4
_DOCUMENT = re.compile(r"(?=\D*\d\D*\d)[B-DF-HJ-NP-TV-XZ0-9]{8,10}")
"""Of passports and identity cards: no vowels, so that it is no word."""
_ALSO_WORDS = frozenset(
    {
        "sin",
        "run",
        "tin",
        "fin",
        "pan",
        "taj",
        "rg",
        "nir",
        "nip",
        "nie",
        "rut",
        "nik",
        "sss",
        "oib",
    }
)
"""In lower case they mean something else."""
_OTHER_NUMBER = re.compile(r"\d+\.\d+(?:\s|\Z)|[a-z]+[ -]")


@cache
def _any_shape() -> Any:
    either = "|".join(shape for shape, _ in _SHAPES)
    return compile_pattern(rf"\b(?:{either})\b", "the shapes of national numbers")


@cache
def _any_name() -> Any:
    either = re.sub(r"\s", "", _NAMES).replace("\\s", "[ _-]")
    return compile_pattern(f"(?i){either}", "the names of national numbers", longest_match=True)


def national_ids(text: str) -> Iterator[Span]:
    if not _TWO_DIGITS.search(text):
        return
    if _any_shape().search(text):
        for pattern, check in _BY_SHAPE:
            for match in pattern.finditer(text):
                if check(_bare(match.group())):
                    yield Span(*match.span(), "national_id")
    for name in _any_name().finditer(text):
        is_word = not text[name.start() - 1 : name.start()].isalnum()
        if is_word and (name.group() not in _ALSO_WORDS):
            yield from _named(text, name.end())


def _named(text: str, end: int) -> Iterator[Span]:
    match = _AFTER_NAME.match(text, end)
    if match:
        number = _without_words(match[1])
        n_digits = sum(map(str.isdigit, number))
        enough = n_digits >= _MIN_NAMED_DIGITS or _DOCUMENT.fullmatch(number)
        if enough and not _OTHER_NUMBER.match(number):
            yield Span(match.start(1), match.start(1) + len(number), "national_id")


def _bare(number: str) -> str:
    return "".join(filter(str.isalnum, number))


def _without_words(number: str) -> str:
    """*number* without the words of the sentence after it."""
    groups = re.split(r"([ ./-]+)", number)
    while (
        len(groups) > 2
        and not any(map(str.isdigit, groups[-1]))
        and (len(groups[-1]) > 2 or not groups[-1].isupper())
    ):
        del groups[-2:]
    return "".join(groups)
