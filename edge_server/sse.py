"""Server-sent events: the one encoder. Data is one line of JSON, so no text can break a frame."""

from __future__ import annotations

import re

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_OTHER_LINE_ENDS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")


def one_line(data: bytes) -> bytes:
    """The JSON *data* without raw U+0085, U+2028 and U+2029: they end no line here, but for the
    many clients that split the text with a function that knows more ends of lines than we do."""
    return data if data.isascii() else _OTHER_LINE_ENDS.sub(_escaped, data)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def encode(data: bytes) -> bytes:
    """One event; *data* is JSON and so without raw line breaks."""
    return b"data: " + one_line(data) + b"\n\n"


def encode_named(name: str, data: bytes) -> bytes:
    """One event with a name, which is one of ours and never text from elsewhere."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + one_line(data) + b"\n\n"
