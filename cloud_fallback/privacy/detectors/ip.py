"""IP addresses of both versions, except those that identify nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from spillover.cloud_fallback.privacy.plain import Span

_DOT = r"(?:\.|\[\.\]|\(\.\)|\[dot\])"
_V4 = re.compile(rf"(?<![\w.+])(?:\d{{1,3}}{_DOT}){{3}}\d{{1,3}}(?!\w|\.\d)")
"""Also with dots in brackets, as reports of attacks write them."""
_V6 = re.compile(
    r"(?<![\w:.])[0-9a-fA-F:]{2,45}(?:\d{1,3}(?:\.\d{1,3}){3})?(?!\w|\.\d|:[0-9a-fA-F:])"
)
_ONE_GROUP = re.compile(r"[0-9a-fA-F]{0,2}::[0-9a-fA-F]{0,4}")
_IS_A_VERSION = re.compile(
    r"(?:\b(?:version|ver|v|oid|release|build|firmware|driver|upgrade[sd]?|update[sd]?"
    r"|sections?|chapter|clause|figure|table)_{0,2}[\s.:=\"']{0,4}"
    r"(?:to|is|from)?\s{0,2}|[=><~]=\s?"
    r"|\b(?:\w{0,10}chrom(?:e|ium)|edga?|opr|crios|safari|firefox|version)/)\Z",
    re.IGNORECASE,
)
_BEFORE_CHARS = 24


def ip_addresses(text: str) -> Iterator[Span]:
    for match in _V4.finditer(text):
        before = text[max(0, match.start() - _BEFORE_CHARS) : match.start()]
        if _is_personal_v4(match.group()) and not _IS_A_VERSION.search(before):
            yield Span(*match.span(), "ip_address")
    if text.count(":") < 2:
        return
    for match in _V6.finditer(text):
        found = match.group().rstrip(":") if match.group()[-2:] != "::" else match.group()
        if _is_personal_v6(found):
            yield Span(match.start(), match.start() + len(found), "ip_address")


def _is_personal_v4(found: str) -> bool:
    """Neither loopback, unspecified, broadcast nor a netmask."""
    found = re.sub(_DOT, ".", found)
    try:
        address = IPv4Address(found)
    except ValueError:
        return False
    return not (address.is_loopback or found.startswith(("0.", "255.")))


def _is_personal_v6(found: str) -> bool:
    if found.count(":") < 2 or not any(map(str.isdigit, found)) or _ONE_GROUP.fullmatch(found):
        return False
    try:
        address = IPv6Address(found)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)
