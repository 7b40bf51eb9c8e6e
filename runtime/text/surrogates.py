"""Half surrogate pairs: Python's texts may hold them, UTF-8 may not."""

from __future__ import annotations

import re


def valid_text(text: str) -> str:
    """*text* as UTF-8 can carry it: half a surrogate pair, which a provider or a chat template may
    write, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


_HIGH, _LOW = rb"u[dD][89abAB][0-9a-fA-F]{2}", rb"u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\(?:%b\\%b|(?P<half>%b|%b)|.)" % (_HIGH, _LOW, _HIGH, _LOW), re.DOTALL)
"""Any escape sequence of a JSON text, so that the second of two backslashes begins none."""


def without_halves(json: bytes) -> bytes:
    """*json* with U+FFFD for each half of a surrogate pair: clients write them that cut a text
    inside an emoji, and a grammar of JSON allows them."""
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape["half"] else escape[0], json)
