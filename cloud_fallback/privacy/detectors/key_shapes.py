"""Keys, tokens and password hashes by the shape that their makers gave them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.detectors.randomness import is_drawn
from spillover.cloud_fallback.privacy.plain import Span

_SHAPES = (
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek, …
    r"sess-[A-Za-z0-9]{30,}",
    r"[srp]k_(?:live|test|prod)_[A-Za-z0-9]{10,}",  # Stripe, Paystack, …
    r"sk_[a-f0-9]{40,}",  # ElevenLabs
    r"whsec_[A-Za-z0-9+/=]{20,}",
    r"rzp_(?:live|test)_[A-Za-z0-9]{10,}",
    r"gh[opsur]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"gl(?:pat|dt|ptt|rt|cbt|soat|agent|imt|ffct|ft|oas)-[A-Za-z0-9_.-]{16,}",  # GitLab
    r"A(?:KIA|SIA|BIA|CCA|GPA|IDA|IPA|NPA|NVA|ROA|PKA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"ABSK[A-Za-z0-9+/]{40,}={0,2}",
    r"amzn\.mws\.[0-9a-f-]{30,}",
    r"Atz[ar]\|[A-Za-z0-9_|-]{40,}",
    r"AIza[A-Za-z0-9_-]{30,}",  # Google
    r"AQ\.[A-Za-z0-9_-]{30,}",
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"1//0[A-Za-z0-9_-]{30,}",
    r"GOCSPX-[A-Za-z0-9_-]{20,}",
    r"AAAA[A-Za-z0-9_-]{7}:[A-Za-z0-9_-]{100,}",
    r"[A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{31,34}",  # Azure
    r"(?<!sha512-)[A-Za-z0-9+/]{86}==(?![A-Za-z0-9+/=])",
    r"xox[abeoprs](?:-\d)?-[A-Za-z0-9-]{10,}",  # Slack
    r"xapp-[A-Za-z0-9-]{10,}",
    r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{20,}",
    r"https://(?:ptb\.|canary\.)?discord(?:app)?\.com/api/webhooks/[0-9]{10,}/[A-Za-z0-9_-]{20,}",
    r"https://[a-z0-9-]{1,60}\.webhook\.office\.com/webhookb2/[A-Za-z0-9@/_-]{40,}",
    r"https://hooks\.zapier\.com/hooks/catch/[0-9]{4,}/[A-Za-z0-9]{5,}",
    r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}",  # Discord
    r"hf_[A-Za-z0-9]{20,}",  # Hugging Face
    r"gsk_[A-Za-z0-9]{20,}",  # Groq
    r"xai-[A-Za-z0-9]{20,}",
    r"pplx-[A-Za-z0-9]{20,}",
    r"r8_[A-Za-z0-9]{20,}",
    r"fw_[A-Za-z0-9]{20,}",
    r"jina_[A-Za-z0-9_-]{20,}",
    r"tvly-[A-Za-z0-9-]{20,}",
    r"pcsk_[A-Za-z0-9_]{20,}",
    r"lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}",
    r"nvapi-[A-Za-z0-9_-]{20,}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[A-Za-z0-9_-]{40,}",
    r"rubygems_[a-f0-9]{40,}",
    r"oy2[a-z0-9]{43}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"x(?:keysib|smtpsib)-[a-f0-9]{40,}-[A-Za-z0-9]{10,}",  # Brevo
    r"mlsn\.[a-f0-9]{40,}",
    r"[0-9a-f]{32}-us[0-9]{1,2}(?![A-Za-z0-9])",  # Mailchimp
    r"(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])",  # Twilio
    r"do[opr]_v1_[a-f0-9]{40,}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{20,}",  # Shopify
    r"sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{20,}",  # Square
    r"EAA[A-Za-z0-9]{40,}",  # Meta
    r"dapi[a-f0-9]{32}",  # Databricks
    r"lin_(?:api|oauth)_[A-Za-z0-9]{20,}",
    r"sb(?:p|_secret)_[A-Za-z0-9_]{30,}",
    r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
    r"hv[bsr]\.[A-Za-z0-9_-]{20,}",  # Vault
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}",
    r"pul-[a-f0-9]{40}",
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9_.]{20,}",
    r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{20,}",
    r"tskey-[A-Za-z0-9-]{16,}",
    r"fo1_[A-Za-z0-9_-]{30,}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{40,}",
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}",  # Telegram
    r"AT(?:ATT|CTT|BB)3?[A-Za-z0-9_=-]{20,}",  # Atlassian
    r"ntn_[A-Za-z0-9]{30,}",  # Notion
    r"figd_[A-Za-z0-9_-]{20,}",
    r"pat[A-Za-z0-9]{14}\.[a-f0-9]{40,}",  # Airtable
    r"pat-(?:na|eu|ap)\d-[0-9a-f-]{30,}",  # HubSpot
    r"gl(?:sa|c)_[A-Za-z0-9_+/=]{20,}",  # Grafana
    r"NR(?:AK|JS|II|RA)-[A-Za-z0-9]{20,}",  # New Relic
    r"PMAK-[a-f0-9-]{40,}",
    r"nfp_[A-Za-z0-9]{30,}",
    r"sntr[ysu]{1,2}_[A-Za-z0-9_+/=-]{30,}",
    r"sgp_[A-Za-z0-9_]{30,}",
    r"sq[aup]_[a-f0-9]{40}",
    r"CCIPAT_[A-Za-z0-9_]{20,}",
    r"tfp_[A-Za-z0-9_-]{30,}",
    r"sl\.[A-Za-z0-9_-]{60,}",
    r"AKCp[A-Za-z0-9]{50,}",
    r"LTAI[A-Za-z0-9]{12,24}(?![A-Za-z0-9])",  # Alibaba
    r"AKID[A-Za-z0-9]{32}",
    r"y[0-3]_[A-Za-z0-9_-]{30,}",  # Yandex
    r"AQVN[A-Za-z0-9_-]{30,}",
    r"access-(?:sandbox|development|production)-[0-9a-f-]{30,}",
    r"ops_eyJ[A-Za-z0-9_-]{30,}",
    r"FLWSECK(?:_TEST)?-[A-Za-z0-9-]{20,}",
    r"[sp]k\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{10,}",  # Mapbox
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}",  # JSON Web Tokens
    r"[5KL][1-9A-HJ-NP-Za-km-z]{50,51}(?![A-Za-z0-9])",  # Bitcoin
    r"[xyz]prv[1-9A-HJ-NP-Za-km-z]{100,}",
    r"[A-Z0-9]{5}(?:-[A-Z0-9]{5}){4}(?![A-Za-z0-9-])",  # product keys
    r"\d{6}(?:-\d{6}){7}(?![0-9-])",  # BitLocker
    r"(?:pbkdf2|scrypt|argon2)[\w:]{0,24}\$[A-Za-z0-9./+=$,-]{30,}",
    r"\$(?:2[abxy]|5|6|7|y|argon2(?:id|i|d)|pbkdf2-\w{4,8}|apr1|1|scrypt)\$[A-Za-z0-9./$=,+-]{20,}",
)
_KEY = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_SHAPES)})")
_NAMED = re.compile(
    r"(?:[?&](?:code|ticket|hash|t|k|s)=|(?<![A-Za-z0-9])(?:key|secret|token|api|apikey|pat|auth|access|access_token|api_key|live|prod|sec|pk|sk|rk|tok)[-_](?=[A-Za-z0-9_-]{16}))"
    r"([A-Za-z0-9_-]{10,})(?![A-Za-z0-9_(-])"
)
"""Of issuers that are not listed: key-…, secret_…, with a text drawn by a machine."""
_LONG_WORD = re.compile(r"\S{15,}")
"""No key is shorter, most words are."""
_UNFINISHED = re.compile(
    r"(?<![A-Za-z0-9_])(?:sk-|[srp]k_(?:live|test)_|gh[opsur]_|github_pat_|glpat-|AKIA|ASIA|AIza"
    r"|ya29\.|xox[abeoprs]-|hf_|gsk_|xai-|pypi-|eyJ)[A-Za-z0-9_.-]{6,}\Z"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9 ]{1,30} )?PRIVATE KEY(?: BLOCK)?-----(?=\s{0,8}[A-Za-z0-9+/=]{2})"
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z0-9 ]{1,40}-----"
    # Without its end: lines that look like a key's.
    r"|(?:\s{1,4}[A-Za-z-]{1,20}: [^\n]{1,80})*(?:\s{0,4}\n\s{0,4}[A-Za-z0-9+/=]{1,128}"
    r"|\s[A-Za-z0-9+/=]{40,})*)"
)
_PUTTY_KEY = re.compile(r"Private-Lines: \d{1,3}\n(?:[A-Za-z0-9+/=]{1,128}\n?){1,200}")
_UNFINISHED_CHARS = 200


def keys(text: str) -> Iterator[Span]:
    for word in _LONG_WORD.finditer(text):
        for match in _KEY.finditer(text, *word.span()):
            yield Span(*match.span(), "secret")
        for match in _NAMED.finditer(text, *word.span()):
            if is_drawn(match[1], surely=True):
                start = match.start(1) if text[match.start()] in "?&" else match.start()
                yield Span(start, match.end(), "secret")
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Span(match.start(), match.start() + len(match.group().rstrip()), "secret")
    if "Private-Lines" in text:
        for match in _PUTTY_KEY.finditer(text):
            yield Span(*match.span(), "secret")


def unfinished_key(text: str) -> Span | None:
    """A key that the end of *text* cuts off before it is long enough to be certain."""
    match = _UNFINISHED.search(text, max(0, len(text) - _UNFINISHED_CHARS))
    return Span(*match.span(), "secret") if match else None
