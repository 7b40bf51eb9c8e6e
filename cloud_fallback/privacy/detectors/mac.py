"""Hardware addresses of network cards (IEEE 802)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spillover.cloud_fallback.privacy.plain import Span

_MAC = re.compile(
    r"(?<![\w:.-])(?:[0-9a-fA-F]{2}:(?:[0-9a-fA-F]{2}:){4}[0-9a-fA-F]{2}"
    r"|[0-9a-fA-F]{2}-(?:[0-9a-fA-F]{2}-){4}[0-9a-fA-F]{2}"
    r"|[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}\.[0-9a-fA-F]{4})(?![\w]|[:.-]\w)"
)
_MIN_KINDS = 3
"""Of digits: not all zero, all ones, or 01-02-03 with a sign between."""


def mac_addresses(text: str) -> Iterator[Span]:
    for match in _MAC.finditer(text):
        found = match.group()
        digits = set(found.lower()) - set(":.-")
        is_number = "." in found and not found.islower()
        if len(digits) >= _MIN_KINDS and not is_number:
            yield Span(*match.span(), "mac_address")
