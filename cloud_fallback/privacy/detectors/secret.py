"""Passwords, and tokens of any shape: by the word or the place before them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.spans import Span

_SCHEME = re.compile(r"\b(?:bearer|basic)\s+([A-Za-z0-9._~+/-]{16,}={0,2})", re.IGNORECASE)
_LOGIN_IN_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{1,20}://([^\s/@:\"'<>]{0,64}:[^\s/@\"'<>]{1,256})@"
)

_BETWEEN = (
    r"""["'`]?\]?\s{0,3}(=>|:=|==?|:|\bis\b|\blautet\b|\bist\b|\best\b|\bes\b|\s(?=["'`]))\s{0,3}"""
)
_VALUE = (
    r"""(?:"([^"\n]{4,256})"|'([^'\n]{4,256})'|`([^`\n]{4,256})`|([^\s"'`,;<>(){}\[\]]{4,256}))"""
)
_PASSWORD = re.compile(
    r"(?<![A-Za-z])(?:password|passwd|passphrase|passcode|pwd|kennwort|passwort"
    r"|mot de passe|contraseña|senha|密码|パスワード)" + _BETWEEN + _VALUE,
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"(?<![A-Za-z])(?:api[_ -]?key|apikey|secret|token|access[_ -]?key"
    r"|auth(?:orization)?"
    r"|credentials?|private[_ -]?key|account[_-]?key|client[_ -]?secret|signing[_ -]?key"
    r"|encryption[_ -]?key|session[_-]?id|cookie)" + _BETWEEN + _VALUE.replace(",;", ",;&"),
    re.IGNORECASE,
)
_IN_COMMAND = re.compile(
    r"\bmysql(?:dump|admin)?\b[^\n|;]{0,80}?\s-p([^\s\"']{4,128})"
    r"|\s--?pass(?:word|wd)?\s([^\s\"'-][^\s\"']{3,128})"
    r"|\bcurl\b[^\n|;]{0,200}?\s(?:-u|--user)\s\"?'?([^\s\"':]{1,64}:[^\s\"']{1,128})"
)
_UNQUOTED = 5
"""The group of _BETWEEN + _VALUE with a value that stands without quotes."""
_NAME_OR_CALL = re.compile(r"[$%{<:]|(?:[A-Za-z_]\w*\.)*[A-Za-z_]+(?:\(|\[|\Z)")
_WORD = re.compile(r"[^\W\d_]+\Z")
_WORDS_OF_PROGRAMS = re.compile(
    r"str|string|bytes|text|none|null|true|false|undefined|optional|required|any|object|secretstr"
    r"|password|passwd|passphrase|secret|bool|int|hidden|input|field|char|varchar|env|credentials",
    re.IGNORECASE,
)
_END_OF_ENTRY = re.compile(r"""\s{0,2}(?:[\n,;|"')]|\.(?:\s|\Z)|\Z)""")
_STANDS_FOR_ONE = re.compile(r"\$\{|\{\{|<|%\(|\[[A-Z_]+_\d+\]")
_STARS = re.compile(r"[*x•.…]+\Z", re.IGNORECASE)
MIN_TOKEN_CHARS = 12
MIN_ENTROPY_BITS = 3.0


_ALWAYS = ((_SCHEME, ("bearer", "basic")), (_LOGIN_IN_URL, ("://",)), (_IN_COMMAND, ("-p", "curl")))
_PASSWORD_WORDS = ("passw", "passphrase", "passcode", "pwd", "kennwort", "mot de passe", "senha")
_OTHER_PASSWORD_WORDS = ("contraseña", "密码", "パスワード")
_TOKEN_WORDS = ("key", "secret", "token", "auth", "credential", "session", "cookie")


def secrets(text: str) -> Iterator[Span]:
    folded = text.casefold()
    for pattern, words in _ALWAYS:
        for match in _found(pattern, text, folded, words):
            if not _STANDS_FOR_ONE.match(match[_last_group(match)]):
                yield Span(*match.span(_last_group(match)), "secret")
    for match in _found(_PASSWORD, text, folded, _PASSWORD_WORDS + _OTHER_PASSWORD_WORDS):
        if _is_password(match):
            yield Span(*match.span(_last_group(match)), "secret")
    for match in _found(_TOKEN, text, folded, _TOKEN_WORDS):
        if is_random(match[_last_group(match)]) and not _is_program(match):
            yield Span(*match.span(_last_group(match)), "secret")


def _found(
    pattern: re.Pattern[str], text: str, folded: str, words: tuple[str, ...]
) -> Iterator[re.Match[str]]:
    """What *pattern* matches, which it cannot without one of *words*: those are found faster."""
    if any(word in folded for word in words):
        yield from pattern.finditer(text)


def is_random(value: str) -> bool:
    """Long enough, and as mixed as only a machine writes."""
    if len(value) < MIN_TOKEN_CHARS or not any(map(str.isdigit, value)):
        return False
    if not any(map(str.isalpha, value)) or " " in value or "://" in value:
        return False
    return entropy_bits(value) >= MIN_ENTROPY_BITS


def entropy_bits(value: str) -> float:
    """Shannon's entropy of the characters, in bits for each."""
    counts, n = Counter(value).values(), len(value)
    return -sum(count / n * math.log2(count / n) for count in counts)


def _last_group(match: re.Match[str]) -> int:
    assert match.lastindex is not None
    return match.lastindex


def _is_program(match: re.Match[str]) -> bool:
    """A value without quotes that is called or indexed."""
    return _last_group(match) == _UNQUOTED and match.string[match.end() : match.end() + 1] in (
        *("(", "["),
    )


def _is_password(match: re.Match[str]) -> bool:
    """Not a name, a call or a placeholder of a program, nor a word of a sentence."""
    group = _last_group(match)
    value = match[group]
    if _STARS.match(value):
        return False
    if group != _UNQUOTED:
        return not _STANDS_FOR_ONE.match(value)
    value = value.rstrip(".!?:")
    if _is_program(match):
        return False
    if _WORD.match(value):
        return _is_set_to_a_word(match, value)
    return not _NAME_OR_CALL.match(value)


def _is_set_to_a_word(match: re.Match[str], value: str) -> bool:
    """PASSWORD=changeme, or "password: letmein" before a sign or the end of a line."""
    if _WORDS_OF_PROGRAMS.fullmatch(value):
        return False
    if match[1] == "=":
        return match.group().isascii() and match.group()[0].isupper()
    return match[1] == ":" and bool(_END_OF_ENTRY.match(match.string, match.end()))
