"""Server-sent events: the one encoder. Data is one line of JSON, so no text can break a frame."""

from __future__ import annotations

import re

KEEP_ALIVE = b": keep-alive\n\n"
COMMENT = b": keep-alive\n"
"""For streams whose events have ids. Many clients take a blank line after an id for an event, and
then miss its data; so no blank line stands there that ends no event."""
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


def with_id(event_id: str, event: bytes) -> bytes:
    """*event* with an id, which is one of ours, too."""
    return b"id: %b\n%b" % (event_id.encode("ascii"), event)


def split(chunk: bytes) -> list[bytes]:
    """The single events of what encoders have put together."""
    *events, rest = chunk.split(b"\n\n")
    assert not rest, "an event ends with a blank line"
    return [event + b"\n\n" for event in events]
