"""Keys and tokens that are known by the shape their makers gave them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.spans import Span

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
"""No key is shorter; most words are."""
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
    """A key that the end of *text* cuts off before it is long enough to be sure."""
    match = _UNFINISHED.search(text, max(0, len(text) - _UNFINISHED_CHARS))
    return Span(*match.span(), "secret") if match else None
