"""Telephone numbers: with a country code, in the way the user's countries write them, or after a
word that says what they are. Other numbers are not taken for telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from spillover.cloud_fallback.privacy.plain import Span
from spillover.runtime.errors import InvalidRequest

_ENOUGH_DIGITS = re.compile(r"\d(?:[ .()/-]{0,3}\d){5}")
_INTERNATIONAL = re.compile(
    r"(?<![\w+])(?:\(\+|\+|(?<![\d.,:/-])00(?=[1-9]))\d(?:[ .()/-]{0,3}\d){6,16}(?!\w)"
)
_NATIONAL = re.compile(
    r"(?<![\w+@./:-])(?<!\d )(?<!\d[,'])(?<!\b\d[a-f] )(?<!\b[a-f]\d )(?<!<Buffer )"
    r"(?:\(0\d{1,5}\)\s?|\(\d{2,5}\)\s?|0\d{1,5}(?:\s?[/-]\s?|\s))"
    r"\d{2,8}(?:[ /-]\d{2,8}){0,4}(?![\w/]|[.,:-]\d)"
)
_PAIRS = re.compile(r"(?<![\w+@./-])0\d(?:\.\d\d){4}(?!\w|\.\d)")
_MOBILE = re.compile(r"(?<![\w+@./:,-])(?<!\[`)0\d{9,10}(?![\w.,:-]\d|\w)")
_SHAPES = {
    "US": r"(?:1[ .-]?)?(?:\([2-9]\d{2}\)\s?|[2-9]\d{2}[ .-])\d{3}[ .-]\d{4}",
    "IN": r"(?<!\d{5} )(?:0|91[ -])?[6-9]\d{4}[ -]\d{5}(?! \d{5})",
    "CN": r"1[3-9]\d[ -]\d{4}[ -]\d{4}",
    "BR": r"\(\d{2}\)\s?9?\d{4}-\d{4}",
    "ES": r"[6789]\d{2}[ -]\d{2}[ -]\d{2}[ -]\d{2}",
}
_SAME_SHAPE = {"CA": "US"}
_SAID = re.compile(
    r"(?:(?<![A-Za-z])(?:(?:tele|home|work|office|mobile|user|contact|customer)?phone|tel|mobile"
    r"|cell(?:phone)?|call(?:ed|ing)?(?: me| us| him| her| them)?|text(?: me| us| him| her| them)"
    r"|contact(?: me| us)?|dial|sms|fax|whats\s?app|signal|hotline|my number|reach (?:me|us)"
    r"|handy\w{0,8}|mobil\w{0,8}|rufnummer|t[ée]l[ée]phone|t[ée]l|portable"
    r"|m[óo]vil|tel[ée]fono|cellulare|telefone|celular|тел)"
    r"|telefon\w{0,8}|телефон\w{0,3}|电话|手机|電話|携帯|전화)"
    r"[^A-Za-z0-9\n]{0,6}(?:(?:numbers?|no|nr|nummer|is|at|on|under|unter|ist|me|us|am|au|al|es|est"
    r"|now|today|mobile|work|home|office|[a-z]{0,12}'s)(?![A-Za-z])[^A-Za-z0-9\n]{0,6}){0,4}"
    # The number may have a bracket, and groups of any size.
    r"(?<![\w.,/+-])(\(?\d(?:[ .()/-]{0,2}\d){5,14})(?!\w)",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\d{4}([ ./-])\d{1,2}\1\d{1,2}(?: .*)?|\d{1,2}([./-])\d{1,2}\2(?:\d{4}|\d{2})(?: .*)?"
    r"|(?:19|20)\d{2}\s?-\s?(?:19|20)\d{2}|[0-2]\d[0-5]\d\s?-\s?[0-2]\d[0-5]\d"
)
_SAID_OTHERWISE = re.compile(
    r"(?:\b(?:is[sb]n|order|invoice|ticket|serial|part|model|ref(?:erence)?|account|customer|case"
    r"|item|article|id|no|nr|number|bestell\w{0,8}|rechnung\w{0,8}|kunden\w{0,8}|artikel\w{0,8})\b"
    r"|#|(?-i:\b[A-Z]{2}(?=\s{1,2}\Z)))[^\w\n]{0,3}(?:(?:id|no|nr|number|nummer|is|ist)\b[^\w\n]{0,3}){0,2}\Z",
    re.IGNORECASE,
)
_BEFORE_CHARS = 48
_EXAMPLES = ("030 901820", "0000 0000 0000", "+1 415 555 2671")
_MIN_DIGITS, _MAX_DIGITS = 7, 15


def check_regions(regions: Collection[str]) -> None:
    """Raises InvalidRequest for a region that does not exist, such as UK instead of GB."""
    import phonenumbers

    for place, region in enumerate(regions):
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise InvalidRequest(
                f"{region} is no country with telephone numbers: give an ISO 3166 code such as GB",
                f"phone_regions[{place}]",
            )


class Phones:
    """A detector that knows the numbers of *regions* without their country code."""

    def __init__(self, regions: Collection[str]) -> None:
        self._regions = tuple(regions)
        shapes = [_SHAPES.get(_SAME_SHAPE.get(region, region)) for region in regions]
        either = "|".join(dict.fromkeys(filter(None, shapes)))
        self._shapes = re.compile(rf"(?<![\w+@./-])(?:{either})(?![\w]|[.-]\d)") if either else None

    def warm(self) -> None:
        """Read the countries' tables and compile their patterns."""
        for region in self._regions:
            for number in _EXAMPLES:
                _is_number(number, region, must_be_valid=True)

    def __call__(self, text: str) -> Iterator[Span]:
        if not _ENOUGH_DIGITS.search(text):
            return
        yield from _scan(_INTERNATIONAL, text, lambda found, _: _is_international(found))
        if self._shapes:
            yield from (Span(*match.span(), "phone") for match in self._shapes.finditer(text))
        for pattern in (_NATIONAL, _PAIRS, _MOBILE):
            yield from _scan(pattern, text, self._is_national)
        for match in _SAID.finditer(text):
            if not _DATE.fullmatch(match[1]):
                yield Span(*match.span(1), "phone")

    def _is_national(self, found: str, before: str) -> bool:
        if _DATE.fullmatch(found) or sum(map(str.isdigit, found)) < _MIN_DIGITS:
            return False
        if _SAID_OTHERWISE.search(before) or found == "0123456789":
            return False
        if self._shapes and self._shapes.fullmatch(found):
            return True
        return any(_is_number(found, region, must_be_valid=True) for region in self._regions)


def _scan(
    pattern: re.Pattern[str], text: str, accept: Callable[[str, str], bool]
) -> Iterator[Span]:
    """What *pattern* finds and *accept* accepts, if need be without the last groups of digits,
    which may be something else."""
    position = 0
    while match := pattern.search(text, position):
        start = match.start()
        before = text[max(0, start - _BEFORE_CHARS) : start]
        position = start + 1
        for end in _ends(match):
            if accept(text[start:end], before):
                yield Span(start, end, "phone")
                position = end
                break


def _ends(match: re.Match[str]) -> Iterator[int]:
    """The ends of the groups of digits in a found number, the last first."""
    found = match.group()
    for index in range(len(found), _MIN_DIGITS - 1, -1):
        if found[index - 1].isdigit() and not found[index : index + 1].isdigit():
            yield match.start() + index


def _is_international(found: str) -> bool:
    digits = "".join(filter(str.isdigit, found))
    has_plus = "+" in found
    if not has_plus:
        digits = digits.removeprefix("00")
    if not _MIN_DIGITS <= len(digits) <= _MAX_DIGITS or digits[0] == "0":
        return False
    return _is_number(f"+{digits}", None, must_be_valid=not has_plus)


def _is_number(found: str, region: str | None, *, must_be_valid: bool) -> bool:
    import phonenumbers  # 40 ms, so only when it is needed

    try:
        number = phonenumbers.parse(found, region)
    except phonenumbers.NumberParseException:
        return False
    if must_be_valid:
        return phonenumbers.is_valid_number(number)
    return phonenumbers.is_possible_number(number)
