"""Server-sent events. Data is one line of JSON, so that no text can break a frame."""

from __future__ import annotations

import re

KEEP_ALIVE = b": keep-alive\n"
"""Without a blank line, which many clients take for an event without data."""
DONE = b"data: [DONE]\n\n"

_OTHER_LINE_ENDS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")


def one_line(data: bytes) -> bytes:
    """The JSON *data* without raw U+0085, U+2028 and U+2029. They end no line of SSE, but many
    clients split the text with a function that takes them for line ends."""
    return data if data.isascii() else _OTHER_LINE_ENDS.sub(_escaped, data)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def encode(data: bytes) -> bytes:
    """One event; *data* is JSON and so without raw line breaks."""
    return b"data: " + one_line(data) + b"\n\n"


def encode_named(name: str, data: bytes) -> bytes:
    """One event with a *name* of ours, never with text from elsewhere."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + one_line(data) + b"\n\n"


def with_id(event_id: str, event: bytes) -> bytes:
    """*event* with an id of ours."""
    return b"id: %b\n%b" % (event_id.encode("ascii"), event)


def split(chunk: bytes) -> list[bytes]:
    """The single events of an encoder's bytes."""
    *events, rest = chunk.split(b"\n\n")
    assert not rest, "an event ends with a blank line"
    return [event + b"\n\n" for event in events]
