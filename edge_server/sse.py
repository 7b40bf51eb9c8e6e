"""Server-sent events: the one encoder. Data is one line of JSON, so no text can break a frame."""

from __future__ import annotations

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def encode(data: bytes) -> bytes:
    """One event; *data* is JSON and so without raw line breaks."""
    return b"data: " + data + b"\n\n"


def encode_named(name: str, data: bytes) -> bytes:
    """One event with a name, which is one of ours and never text from elsewhere."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + data + b"\n\n"
