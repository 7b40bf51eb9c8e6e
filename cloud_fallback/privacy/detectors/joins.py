"""How a private text follows the word that promises it: password = …, clé : …, <password>…,
"the PIN of my card is …", パスワードは…."""

# ruff: noqa: RUF001, E501 - look-alikes of Latin letters; an alternative of a pattern in one line

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

Join: TypeAlias = Literal["set", "said", "shown", "beside"]
"""set: by a sign, as in programs, files and lists. said: by a verb. shown: in the next cell.
beside: after a blank."""


class Candidate(Struct, frozen=True):
    """text[start:end] follows the word by *join*."""

    start: int
    end: int
    join: Join
    is_quoted: bool = False
    sign: str = ""


_QUOTES = (
    r"""(?P<q>\\{1,3}["'])(?P<a>[^\n\0]{1,256}?)(?P=q)"""
    r"""|"(?P<b>(?:[^"\\\n\0]|\\[^\n\0]){1,256})\""""
    r"""|(?P<t>'|`)(?P<c>(?:(?!(?P=t))[^\\\n\0]|\\[^\n\0]){1,256})(?P=t)"""
    r"""|[“”„](?P<d>[^“”\n\0]{1,256})[“”]|[‘’‚](?P<e>[^‘’\n\0]{1,256})[‘’]"""
    r"""|[«»]\s?(?P<f>[^«»\n\0]{1,256}?)\s?[«»]|[‹›](?P<g>[^‹›\n\0]{1,256})[‹›]"""
    r"""|[「『](?P<h>[^」』\n\0]{1,256})[」』]"""
)
_PREFIX = r"""(?:[bruf@L$]{1,2}(?=["']))?"""
_PLAIN = r"""(?!["'`])(?P<plain>[!-~\u00a1-\u024f]{1,256}|[^\s\0"'`|]{1,256})"""
_VALUE = rf"(?:{_PREFIX}(?:{_QUOTES})|{_PLAIN})"
_CLOSED = r"""(?:'s|\\{0,3}["'`”’»)\]*_]|\s?\([^()\n\0]{1,30}\)){0,4}"""
_TYPE = r"(?: ?:? {1,2}[&*]?[A-Za-z][\w\[\].|?&']{0,24}(?: [A-Za-z]\w{0,12})?(?= {0,2}=))?"
_OPENED = r"[ \t]{0,12}(?:[*_]{1,2}\s{0,3}|(?:</?[A-Za-z]{1,10}>\s{0,4}){1,2}|[|>][+-]?\s{0,4}\n\s{0,12})?"
_SET = re.compile(
    rf"{_CLOSED}{_TYPE}[ \t]{{0,12}}(?P<sign>=>|:=|={{1,3}}|:(?!:)|=:){_OPENED}{_VALUE}"
)
_CALLED = re.compile(rf"""\\{{0,3}}["'`]?\s{{0,4}}\(\s{{0,8}}{_PREFIX}(?:{_QUOTES})""")
_LISTED = re.compile(rf"""\\{{0,3}}["'`]\s{{0,4}},\s{{0,8}}{_PREFIX}(?:{_QUOTES})""")
_PAIRED = re.compile(
    rf"""\\{{0,3}}["']?\s{{0,4}}[,;]?\s{{0,40}}\\{{0,3}}["']?(?:value|val|default|data|content)\\{{0,3}}["']?\s{{0,3}}[:=]\s{{0,3}}{_VALUE}""",
    re.IGNORECASE,
)
_MARKED_UP = re.compile(
    r"(?:[^<>\n\0]{0,80}>|\s{0,4}:?\s{0,4}</[A-Za-z]{1,16}>)(?:\s{0,8}</?[A-Za-z][^<>\0]{0,80}>){0,4}\s{0,8}(?P<plain>[^<>\n\0]{1,256}?)\s{0,8}<"
)
_INPUT = re.compile(r"""["']?[^<>\n\0]{0,60}?\bvalue\s?=\s?"(?P<b>[^"\n\0]{1,256})\"""")
_VERBS = """is are was were be c'est equals became remains reads ist lautet lauten heißt heisst war sind est sont était es
    son era será è é sono são foi jest są brzmi to je sú er är on ole este sunt e van az adalah ialah
    yaitu là olarak этo это был есть be είναι ήταν هو هي كان הוא היא היה है था হল என்பது from as with ni ay е є гласи је هست است"""
_VERB = "|".join(sorted(_VERBS.split(), key=len, reverse=True))
_WORD_CHARS = r"""(?:[^\s.:=|,;!?"'’`“”«»()<>\0]|(?<=\w)['’](?=\w)|[.:](?=\w))"""
# Words never begin or end in two ways, or the time would not be linear.
_FILLER = rf"(?:[ ]{{1,2}}{_WORD_CHARS}{{1,32}}+){{0,7}}?"
_NOW = r"(?:\s(?:now|currently|still|set|changed|to|the|le|der|die|das|el|la|il|jetzt|aktuell|also)\b){0,2}"
_SAID = re.compile(
    rf"{_CLOSED}{_FILLER},?\s{{1,2}}(?P<verb>(?:{_VERB})\b{_NOW}|-)\s?:?\s{{1,3}}[*_]{{0,2}}{_VALUE}",
    re.IGNORECASE,
)
_SAID_SHORTLY = re.compile(r"\s?['’]s\s{1,2}(?:now\s)?(?P<plain>(?=\S{0,64}\d)[^\s\0\"'`]{1,256})")
"""The PIN's 4711. Without a digit it may be the PIN's length."""
_MAX_VERBS = 3
_ASIDE = re.compile(rf"(?:[ ]{{1,2}}{_WORD_CHARS}{{1,32}}+){{1,5}}?,[ ]{_VALUE}")
_SAID_LATER = re.compile(rf"{_CLOSED}{_FILLER}\s{{0,2}}(?:[:=→⇒]|->)\s{{0,3}}[*_]{{0,2}}{_VALUE}")
_SAID_UNSPACED = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{0,8}?"
    rf"(?:は|が|是|为|為|就是|叫|은|는|이|가|คือ|:)\s{{0,2}}{_VALUE}"
)
_BESIDE = re.compile(
    rf"{_CLOSED}[ ]{{1,3}}(?:(?:number|no|nr|code|for|of|de|di|del|da|von|für|pour)\.?[ ])?"
    rf"(?:[^\x00-\x7f]{{1,12}}[ ]){{0,2}}[*_]{{0,2}}{_VALUE}"
)
_BELOW = re.compile(
    rf"""["'*_`]{{0,3}}:?[*_]{{0,2}}[ ]{{0,3}}\r?\n[ ]{{0,12}}[*_]{{0,2}}{_VALUE}(?=\s{{0,4}}(?:\n|\Z))"""
)
_CELL = re.compile(
    r"""["'*_`]{0,3}\s{0,20}(?P<sign>[|\t]|,(?=["'])|;(?=["']))\s{0,20}["'*_`]{0,3}"""
    r"""(?P<plain>[^|\t\n"'`\0]{1,128}?)["'*_`]{0,3}\s{0,20}(?=[|\t\n,;]|\Z)"""
)
_BY_JOIN: tuple[tuple[Join, tuple[re.Pattern[str], ...]], ...] = (
    ("set", (_SET, _PAIRED, _CALLED, _MARKED_UP, _INPUT)),
    ("said", (_SAID, _SAID_SHORTLY, _SAID_LATER, _SAID_UNSPACED, _BELOW, _ASIDE)),
    ("shown", (_CELL, _LISTED)),
    ("beside", (_BESIDE,)),
)


def candidates(text: str, end: int) -> Iterator[Candidate]:
    """What may be the private text after a word that ends at *end*, the surest first."""
    for join, patterns in _BY_JOIN:
        for pattern in patterns:
            place = end
            for _ in range(_MAX_VERBS if pattern is _SAID else 1):
                if not (match := pattern.match(text, place)):
                    break
                yield _candidate(match, join)
                if pattern is _SAID:  # the verb may have been a word of the subject
                    place = match.end("verb")


def _candidate(match: re.Match[str], join: Join) -> Candidate:
    groups = match.groupdict()
    name = next(
        name for name in ("a", "b", "c", "d", "e", "f", "g", "h", "plain") if groups.get(name)
    )
    start, end = match.span(name)
    return Candidate(start, end, join, name != "plain", groups.get("sign") or "")
