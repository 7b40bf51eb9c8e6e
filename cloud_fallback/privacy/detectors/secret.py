"""Keys and tokens by the shape their makers gave them; passwords and other tokens by the word or
the place before them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.plain import Span

# --- keys by their shape ------------------------------------------------------------------------

_SHAPES = (
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek, …
    r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{20,}",
    r"gh[opsur]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"gl(?:pat|dt|ptt|rt|cbt|soat|agent)-[A-Za-z0-9_.-]{16,}",  # GitLab
    r"A(?:KIA|SIA|BIA|CCA|GPA|IDA|IPA|NPA|NVA|ROA|PKA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"ABSK[A-Za-z0-9+/]{40,}={0,2}",
    r"AIza[A-Za-z0-9_-]{30,}",  # Google
    r"AQ\.[A-Za-z0-9_-]{30,}",
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"GOCSPX-[A-Za-z0-9_-]{20,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"xapp-[A-Za-z0-9-]{10,}",
    r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    r"https://(?:ptb\.|canary\.)?discord(?:app)?\.com/api/webhooks/[0-9]{10,}/[A-Za-z0-9_-]{20,}",
    r"hf_[A-Za-z0-9]{20,}",  # Hugging Face
    r"gsk_[A-Za-z0-9]{20,}",  # Groq
    r"xai-[A-Za-z0-9]{20,}",
    r"pplx-[A-Za-z0-9]{20,}",
    r"r8_[A-Za-z0-9]{20,}",
    r"nvapi-[A-Za-z0-9_-]{20,}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[A-Za-z0-9_-]{40,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])",  # Twilio
    r"do[opr]_v1_[a-f0-9]{40,}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{20,}",  # Shopify
    r"dapi[a-f0-9]{32}",  # Databricks
    r"lin_api_[A-Za-z0-9]{20,}",
    r"sbp_[a-f0-9]{40}",
    r"dckr_pat_[A-Za-z0-9_-]{20,}",
    r"hv[bs]\.[A-Za-z0-9_-]{20,}",  # Vault
    r"tskey-[A-Za-z0-9-]{16,}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{40,}",
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}",  # Telegram
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}",  # JSON Web Tokens
)
_KEY = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_SHAPES)})")
_LONG_WORD = re.compile(r"\S{15,}")
"""No key is shorter, most words are."""
_UNFINISHED = re.compile(
    r"(?<![A-Za-z0-9_])(?:sk-|[srp]k_(?:live|test)_|gh[opsur]_|github_pat_|glpat-|AKIA|ASIA|AIza"
    r"|ya29\.|xox[abeoprs]-|hf_|gsk_|xai-|pypi-|eyJ)[A-Za-z0-9_.-]{6,}\Z"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9 ]{1,30} )?PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z0-9 ]{1,40}-----"
    # Without its end: lines that look like a key's.
    r"|(?:\s{1,4}[A-Za-z-]{1,20}: [^\n]{1,80})*(?:\s{0,4}\n\s{0,4}[A-Za-z0-9+/=]{1,128}"
    r"|\s[A-Za-z0-9+/=]{40,})*)"
)
_UNFINISHED_CHARS = 200


def keys(text: str) -> Iterator[Span]:
    for word in _LONG_WORD.finditer(text):
        for match in _KEY.finditer(text, *word.span()):
            yield Span(*match.span(), "secret")
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Span(match.start(), match.start() + len(match.group().rstrip()), "secret")


def unfinished_key(text: str) -> Span | None:
    """A key that the end of *text* cuts off before it is long enough to be certain."""
    match = _UNFINISHED.search(text, max(0, len(text) - _UNFINISHED_CHARS))
    return Span(*match.span(), "secret") if match else None


# --- secrets by what is before them -------------------------------------------------------------

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
"""The group of _BETWEEN + _VALUE that holds a value without quotes."""
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
    """What *pattern* matches; it cannot match without one of *words*, which are found faster."""
    if any(word in folded for word in words):
        yield from pattern.finditer(text)


def is_random(value: str) -> bool:
    """Long enough, and as mixed as only a machine writes it."""
    if len(value) < MIN_TOKEN_CHARS or not any(map(str.isdigit, value)):
        return False
    if not any(map(str.isalpha, value)) or " " in value or "://" in value:
        return False
    return entropy_bits(value) >= MIN_ENTROPY_BITS


def entropy_bits(value: str) -> float:
    """Shannon's entropy, in bits a character."""
    counts, n = Counter(value).values(), len(value)
    return -sum(count / n * math.log2(count / n) for count in counts)


def _last_group(match: re.Match[str]) -> int:
    assert match.lastindex is not None
    return match.lastindex


def _is_program(match: re.Match[str]) -> bool:
    """A value without quotes that is called or indexed, as in code."""
    return _last_group(match) == _UNQUOTED and match.string[match.end() : match.end() + 1] in (
        *("(", "["),
    )


def _is_password(match: re.Match[str]) -> bool:
    """Neither a name, call or placeholder in code nor a word of a sentence."""
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
    """PASSWORD=changeme, or "password: letmein" before punctuation or the end of the line."""
    if _WORDS_OF_PROGRAMS.fullmatch(value):
        return False
    if match[1] == "=":
        return match.group().isascii() and match.group()[0].isupper()
    return match[1] == ":" and bool(_END_OF_ENTRY.match(match.string, match.end()))
