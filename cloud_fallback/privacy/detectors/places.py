"""Secrets by their place in a URL, a header, a command, or a line of a known file."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.detectors.values import stands_for_one
from spillover.cloud_fallback.privacy.plain import Span

_CHARS = r"""[^\s"'`\0]"""
_ARGUMENT = r"""["']?([^\s"'\0-][^\s"'\0]{3,128})"""
_QUOTED_ARGUMENT = r"""(?:"([^"\n\0]{4,128})"|'([^'\n\0]{4,128})'|([^\s"'\0-][^\s"'\0]{3,128}))"""

_PLACES: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (words, re.compile(pattern, re.IGNORECASE | re.MULTILINE))
    for words, pattern in (
        (("bearer",), r"\bbearer\s+([A-Za-z0-9._~+/-]{16,}={0,2})"),
        (
            ("authorization",),
            r"\bauthorization[\"']?\s{0,2}[:=]\s{0,2}[\"']?(?![\w.]{1,64}[(\[.])(?!(?:digest|aws4|hawk|oauth|none|bearer\s+<)\b)(?!(?:bearer|basic|token|negotiate)\s?[\"'`])"
            rf"(?:[A-Za-z][A-Za-z0-9-]{{1,24}}\s{{1,3}})?({_CHARS}{{6,4096}}+)(?!\s{{1,3}}[^\s\"'])",
        ),
        (("://",), r"[a-z][a-z0-9+.-]{1,20}://([^\s/@:\"'<>\0]{0,64}:[^\s/\"'<>\0]{1,256})@"),
        (
            ("://",),
            r"(?:postgres(?:ql)?|mysql|mariadb|mongodb|redis|rediss|amqps?|mssql|oracle|ldaps?|ftps?|sftp|smb)(?:\+\w{1,12})?://([^\s/@:\"'<>\0]{0,64}:[^\s\"'<>\0]{1,256})@",
        ),
        (("://",), r"\bhttps?://([A-Za-z0-9_~.-]{16,256})@[\w-]"),
        (
            ("jdbc:", "sqlplus"),
            r"(?:jdbc:oracle:thin:|\bsqlplus\s{1,3}(?:-\w{1,2}\s)?)([\w.$#]{1,64}/[^\s@/\0]{1,64})@",
        ),
        (
            ("cookie",),
            r"(?<![\w-])(?:set-)?cookie[\"']?\s{0,2}[:=]\s{0,2}[\"']?([\w.%~-]{1,64}=[^\n\"'\0]{4,4096}?)(?=;\s{0,2}(?:path|domain|expires|max-age|httponly|secure|samesite)\b|[\"'\n]|\Z)",
        ),
        (
            ("digest", "credential="),
            r"\b(?:response|signature|cnonce|credential)=\"?([\w/+=-]{16,256})",
        ),
        (
            ("mysql", "mariadb"),
            r"\b(?:mysql|mariadb)(?:dump|admin|import|show)?\b[^\n|;\0]{0,80}?\s-p"
            + r"""(?:"([^"\n\0]{4,128})"|'([^'\n\0]{4,128})'|([^\s"'\0]{4,128}))""",
        ),
        (("sshpass",), r"\bsshpass\s{1,3}-p\s?" + _QUOTED_ARGUMENT),
        (("pass",), r"\s--?(?:\w{1,12}-)?pass(?:word|wd|phrase|code)?[\s=]" + _QUOTED_ARGUMENT),
        (("pass:",), r"\s-(?:passin|passout|pass|k)\spass:" + _ARGUMENT),
        (
            ("curl", "http "),
            r"\b(?:curl|https?|xh)\b[^\n|;\0]{0,200}?\s(?:-u|-a|--user|--auth|--proxy-user)[\s=]\"?'?([^\s\"':]{1,64}:[^\s\"']{1,128})",
        ),
        (("redis-cli",), r"\bredis-cli\b[^\n|;\0]{0,80}?\s-a\s" + _QUOTED_ARGUMENT),
        (
            (
                "docker",
                "podman",
                "helm",
                "az ",
                "oc ",
                "mongo",
                "sqlcmd",
                "bcp",
                "ldap",
                "ftp",
                "zip",
                "7z",
                "rar",
                "mosquitto",
            ),
            r"\b(?:(?:docker|podman|helm|nerdctl|az|oc)\b[^\n|;\0]{0,80}?\blogin\b[^\n|;\0]{0,80}?\s-p|mongo(?:sh|dump|restore)?\b[^\n|;\0]{0,120}?\s-p"
            r"|(?:sqlcmd|bcp)\b[^\n|;\0]{0,120}?\s-P|ldap\w{3,8}\b[^\n|;\0]{0,120}?\s-w|l?ftp\b[^\n|;\0]{0,80}?\s-p"
            r"|mosquitto_\w{3}\b[^\n|;\0]{0,120}?\s-P|zip\b[^\n|;\0]{0,80}?\s-P)\s{1,2}"
            + _QUOTED_ARGUMENT,
        ),
        (("openssl",), r"\bopenssl\s{1,2}[\w-]{2,16}\s[^\n|;\0]{0,120}?-k\s" + _QUOTED_ARGUMENT),
        (
            ("secret set",),
            r"\bsecret\sset\s[^\n|;\0]{0,120}?(?:--body|-b)[\s=]" + _QUOTED_ARGUMENT,
        ),
        (("7z", "rar"), r"\b(?:7za?|7zz|unrar|rar)\b[^\n|;\0]{0,60}?\s-h?p([^\s\"'\0]{4,128})"),
        (("smbclient", "mount"), r"\s-U\s?[\w.\\/@-]{1,64}%([^\s\"'\0]{4,128})"),
        (
            ("net use", "net user"),
            r"\bnet\s(?:user|use)\s{1,2}(?:/\w+\s)?[\w.\\:$-]{1,64}\s{1,2}(?:\\\\[\w.\\$-]{1,64}\s{1,2})?(?![/\\])([^\s\0]{4,128})(?=\s{1,2}/)",
        ),
        (
            ("/p",),
            r"\b(?:xfreerdp|rdesktop|mstsc|cmdkey|net|runas)\b[^\n\0]{0,160}?\s/p(?:ass(?:word)?)?:"
            + _ARGUMENT,
        ),
        (("securestring",), r"\bConvertTo-SecureString\s(?:-String\s)?[\"']([^\"'\n\0]{4,128})"),
        (("google",), r"(?<!\w)(G-\d{6})(?!\d)"),
        (
            ("identified",),
            r"\bidentified\s(?:with\s\w+\s)?by\s(?:password\s)?[\"']([^\"'\n\0]{4,128})",
        ),
        (
            ("password",),
            r"\b(?:create|alter)\s(?:user|role|login)\b[^;\n\0]{0,120}?\bpassword\s?=?\s?'([^'\n\0]{4,128})'",
        ),
        (
            ("sudo", "stdin", "with-token", "-fd", "cryptsetup"),
            r"\b(?:echo|printf)\s{1,2}(?:-\w{1,2}\s|[\"']?%s(?:\\n)?[\"']?\s)?[\"']?([^\"'\n|\0]{4,128}?)[\"']?\s?\|"
            r"(?:\s?sudo\s{1,2}-S|[^|\n\0]{0,120}?(?:-stdin\b|--with-token|--passphrase-fd|\bcryptsetup\s))",
        ),
        (
            ("sas",),
            r"(?<![a-z])sas(?:[ _-]?(?:token|signature))?[\"']?"
            r"(?:\s{0,2}[:=]|\s(?:is|ist|est|es|è|é))\s{0,2}[\"']?"
            r"(\??s[a-z]{1,2}=[^\s\"'<>\0]{1,1024}?[&;]sig=[^\s\"'<>\0]{1,256})",
        ),
        (
            ("base64",),
            r"\becho\s{1,2}-n\s[\"']?((?=[^\"'\s|\0]{0,64}\d)[^\"'\s|\0]{4,128})[\"']?\s?\|\s?base64\b",
        ),
        (
            ("chpasswd",),
            r"\becho\s{1,2}[\"']?[\w.-]{1,32}:([^\"'\n|\0]{4,128}?)[\"']?\s?\|\s?(?:sudo\s)?chpasswd",
        ),
        (
            ("htpasswd",),
            r"\bhtpasswd\s{1,2}-\w{0,4}b\w{0,4}\s{1,2}(?:\S{1,128}\s{1,2})?[\w.@-]{1,64}\s{1,2}"
            + _ARGUMENT,
        ),
        (("login",), r"\blogin\s{1,4}[^\s|]{1,128}\s{1,8}password\s{1,4}([^\s|\0]{1,128})"),
        (
            ("requirepass", "masterauth"),
            r"^\s{0,8}(?:requirepass|masterauth)\s{1,4}([^\s\0]{4,128})",
        ),
        (
            ("secret", "password", "community"),
            r"^\s{0,4}(?:(?:enable|username\s\S{1,64}(?:\sprivilege\s\d{1,2})?)\s(?:secret|password)|snmp-server\scommunity|key-string)\s(?:\d\s|(?=\S{0,64}\d))([^\s\0]{4,128})",
        ),
        (
            (":",),
            r"^[\w.*-]{1,128}:(?:\d{2,5}|\*):[A-Za-z_*][\w.*-]{0,64}:[A-Za-z_*][\w.*-]{0,64}:((?:[^\s:\\\0]|\\.){4,128})$",
        ),
        (("wifi:",), r"\bWIFI:(?:[^\n\0]{0,160}?;)?P:\"?((?:[^;\\\n\0]|\\.){1,128})"),
        (("otpauth",), r"\botpauth://[^\s\0]{1,256}?[?&]secret=([A-Z2-7=]{8,128})"),
        (
            ("[ ]password", "psk", " password "),
            r"\bwifi\s{1,2}connect\b[^\n\0]{0,80}?\spassword\s" + _QUOTED_ARGUMENT,
        ),
    )
)
_LINES_BEFORE = 3
_CHARS_BEHIND = 512
_BASIC = re.compile(r"\bbasic\s+([A-Za-z0-9+/_-]{4,}={0,2})", re.IGNORECASE)


def placed_secrets(text: str) -> Iterator[Span]:
    folded = text.replace("İ", "I").lower()  # the only letter that gets longer
    for words, pattern in _PLACES:
        for start, end in _around(folded, words):
            for match in pattern.finditer(text, start, end):
                group = match.lastindex
                assert group is not None
                if not stands_for_one(match[group]):
                    yield Span(*match.span(group), "secret")
    if "basic" in folded:
        for match in _BASIC.finditer(text):
            if _is_login(match[1]):
                yield Span(*match.span(1), "secret")


def _around(folded: str, words: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The lines that have one of *words*, with two lines before and some text behind them, in order
    and without overlap: the rest of a long text need not be searched."""
    found = sorted(
        match.start() for word in words for match in re.finditer(re.escape(word), folded)
    )
    done = 0
    for place in found:
        if place < done:
            continue
        start = place
        for _ in range(_LINES_BEFORE):
            start = max(folded.rfind("\n", 0, max(0, start - 1)) + 1, 0)
        end = folded.find("\n", place + _CHARS_BEHIND)
        end = len(folded) if end < 0 else end
        yield max(start, done), end
        done = end


def _is_login(encoded: str) -> bool:
    """Base64 of a name and a password, as HTTP's basic authentication sends it (RFC 7617)."""
    try:
        decoded = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return ":" in decoded and decoded.isprintable()
