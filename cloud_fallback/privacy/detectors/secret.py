"""Keys, tokens and passwords: by the shapes their makers gave them, or by the word before them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.spans import Span

_PREFIXED = (
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek, …
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{20,}",
    r"gh[opsur]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"gl(?:pat|dt|ptt|rt|cbt|soat|agent)-[A-Za-z0-9_.-]{16,}",  # GitLab
    r"(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AIPA|ANPA|ANVA|AROA|APKA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"ABSK[A-Za-z0-9+/]{40,}={0,2}",
    r"AIza[A-Za-z0-9_-]{30,}",  # Google
    r"AQ\.[A-Za-z0-9_-]{30,}",
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"GOCSPX-[A-Za-z0-9_-]{20,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"xapp-[A-Za-z0-9-]{10,}",
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
    r"\d{8,10}:AA[A-Za-z0-9_-]{30,}",  # Telegram
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}",  # JSON Web Tokens
)
_KEY = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_PREFIXED)})")
_UNFINISHED = re.compile(
    r"(?<![A-Za-z0-9_])(?:sk-|[srp]k_(?:live|test)_|gh[opsur]_|github_pat_|glpat-|AKIA|ASIA|AIza|ya29\."
    r"|xox[abeoprs]-|hf_|gsk_|xai-|pypi-|eyJ)[A-Za-z0-9_.-]{6,}\Z"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9 ]{1,30} )?PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z0-9 ]{1,40}-----"
    # Without its end: lines that look like a key's.
    r"|(?:\s{1,4}[A-Za-z-]{1,20}: [^\n]{1,80})*(?:\s{0,4}\n\s{0,4}[A-Za-z0-9+/=]{1,128}"
    r"|\s[A-Za-z0-9+/=]{40,})*)"
)
_SCHEME = re.compile(r"\b(?:bearer|basic)\s+([A-Za-z0-9._~+/-]{16,}={0,2})", re.IGNORECASE)
_LOGIN_IN_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{1,20}://([^\s/@:\"'<>]{0,64}:[^\s/@\"'<>]{1,256})@"
)

_BETWEEN = r"""["'`]?\]?\s{0,3}(?:=>|:=|==?|:|\bis\b|\blautet\b|\bist\b|\best\b|\bes\b)\s{0,3}"""
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
    r"|encryption[_ -]?key|session[_-]?id|cookie|pat)" + _BETWEEN + _VALUE,
    re.IGNORECASE,
)
_NAME_OR_CALL = re.compile(r"[$%{<]|(?:[A-Za-z_]\w*\.)*[A-Za-z_]+(?:\(|\[|\Z)")
_STANDS_FOR_ONE = re.compile(r"\$\{|\{\{|<|%\(|\[[A-Z_]+_\d+\]\Z")
_STARS = re.compile(r"[*x•.…]+\Z", re.IGNORECASE)
MIN_TOKEN_CHARS = 12
MIN_ENTROPY_BITS = 3.0


def secrets(text: str) -> Iterator[Span]:
    for match in _KEY.finditer(text):
        yield Span(*match.span(), "secret")
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Span(match.start(), match.start() + len(match.group().rstrip()), "secret")
    for pattern in (_SCHEME, _LOGIN_IN_URL):
        for match in pattern.finditer(text):
            yield Span(*match.span(1), "secret")
    for match in _PASSWORD.finditer(text):
        if _is_password(match):
            yield Span(*match.span(_group(match)), "secret")
    for match in _TOKEN.finditer(text):
        if is_random(match[_group(match)]):
            yield Span(*match.span(_group(match)), "secret")


def unfinished_secret(text: str) -> Span | None:
    """A key that the end of *text* cuts off before it is long enough to be sure."""
    match = _UNFINISHED.search(text, max(0, len(text) - 200))
    return Span(*match.span(), "secret") if match else None


def is_random(value: str) -> bool:
    """Long enough, and as mixed as only a machine writes."""
    if len(value) < MIN_TOKEN_CHARS or not any(map(str.isdigit, value)):
        return False
    if not any(map(str.isalpha, value)) or " " in value:
        return False
    return entropy_bits(value) >= MIN_ENTROPY_BITS


def entropy_bits(value: str) -> float:
    """Shannon's entropy of the characters, in bits for each."""
    counts, n = Counter(value).values(), len(value)
    return -sum(count / n * math.log2(count / n) for count in counts)


def _group(match: re.Match[str]) -> int:
    assert match.lastindex is not None
    return match.lastindex


def _is_password(match: re.Match[str]) -> bool:
    """Not a name, a call or a placeholder of a program, nor a word of a sentence."""
    value = match[_group(match)]
    if _STARS.match(value):
        return False
    is_quoted = _group(match) < 4
    if is_quoted:
        return not _STANDS_FOR_ONE.match(value)
    return not _NAME_OR_CALL.match(value.rstrip(".!?"))
