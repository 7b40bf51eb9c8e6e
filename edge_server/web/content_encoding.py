"""Bodies that clients have compressed."""

from __future__ import annotations

import io
import zlib

from flask import Request

from spillover.edge_server.wire.errors import WireError, bad_request

_GZIP = 31  # zlib's word for "with the header and checksum of gzip"
_MAX_MEMBERS = 256
"""Of a body's gzip: clients send one, but each costs a copy of all that follow it."""


def decompress_body(request: Request, max_bytes: int) -> None:
    """Let *request* have its body as it was before it was compressed. Raises WireError: 415 for
    other codings than gzip, 413 for more than *max_bytes*."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return
    if coding not in ("gzip", "x-gzip"):
        message = f"Content-Encoding {coding[:40]!r} is not supported: send gzip, or none"
        raise WireError(415, message, headers={"Accept-Encoding": "gzip"})
    body = _gunzip(request.get_data(cache=False), max_bytes)
    request.stream = io.BytesIO(body)


def _gunzip(content: bytes, max_bytes: int) -> bytes:
    body, rest = bytearray(), content
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        try:
            body += member.decompress(rest, max_bytes + 1 - len(body))
        except zlib.error:
            raise bad_request("the body is not valid gzip") from None
        if len(body) > max_bytes:
            raise WireError(413, f"the body has more than {max_bytes} bytes when decompressed")
        if not member.eof:
            raise bad_request("the body's gzip ends too early")
        rest = member.unused_data
        if not rest:
            return bytes(body)
    raise bad_request(f"the body's gzip has more than {_MAX_MEMBERS} members: send one")
