"""AWS's binary event frames (application/vnd.amazon.eventstream).

A message has: total length, length of the headers, checksum of these two; headers; payload;
checksum of everything before. Numbers are big-endian, checksums are CRC-32.
"""

from __future__ import annotations

import struct
import zlib
from typing import TypeAlias

import msgspec

from spillover.cloud_fallback.http.errors import Malformed
from spillover.cloud_fallback.http.frame import Frame

MAX_MESSAGE_BYTES = 1024 * 1024
TAIL_BYTES = 8 * 1024

_PRELUDE = struct.Struct(">III")
_CHECKSUM_BYTES = 4
_OVERHEAD = _PRELUDE.size + _CHECKSUM_BYTES
_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type: true, false, byte, short, int, long, time, UUID."""
_BYTES, _STRING = 6, 7

Headers: TypeAlias = dict[str, str]


class EventStream:
    """See Frames."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()

    @property
    def tail(self) -> bytes:
        return bytes(self._buffer[-TAIL_BYTES:])

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (size := self._size()) and len(self._buffer) >= size:
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            frames.append(_frame(message))
        return frames

    def end(self) -> list[Frame]:
        return []

    def _size(self) -> int | None:
        """The length of the message that begins here; None: not known yet."""
        if len(self._buffer) < _PRELUDE.size:
            return None
        total, n_header_bytes, checksum = _PRELUDE.unpack_from(self._buffer)
        if zlib.crc32(self._buffer[:8]) != checksum:
            raise Malformed("a frame is damaged: the checksum of its prelude is wrong")
        if not _OVERHEAD + n_header_bytes <= total <= self._max_message_bytes:
            raise Malformed(f"a frame claims {total} bytes, {n_header_bytes} of them headers")
        return int(total)


def _frame(message: bytes) -> Frame:
    """The frame in a message of the right length."""
    (checksum,) = struct.unpack(">I", message[-_CHECKSUM_BYTES:])
    if zlib.crc32(message[:-_CHECKSUM_BYTES]) != checksum:
        raise Malformed("a frame is damaged: its checksum is wrong")
    begin = _PRELUDE.size + _PRELUDE.unpack_from(message)[1]
    headers = _headers(message[_PRELUDE.size : begin])
    payload = message[begin:-_CHECKSUM_BYTES]
    kind = headers.get(":message-type", "event")
    if kind == "error":
        # Its headers say what is wrong; it has no payload.
        payload = msgspec.json.encode({"message": headers.get(":error-message", "")})
        return Frame(name=headers.get(":error-code", ""), data=payload, is_exception=True)
    return Frame(
        name=headers.get(f":{kind}-type", ""), data=payload, is_exception=kind == "exception"
    )


def _headers(data: bytes) -> Headers:
    """The headers whose values are strings; others are skipped."""
    headers: Headers = {}
    place = 0
    try:
        while place < len(data):
            name_end = place + 1 + data[place]
            name = data[place + 1 : name_end].decode("utf-8", "replace")
            kind = data[name_end]
            place = name_end + 1
            if kind in (_BYTES, _STRING):
                (size,) = struct.unpack_from(">H", data, place)
                place += 2
            else:
                size = _FIXED_SIZES[kind]
            if kind == _STRING:
                headers[name] = data[place : place + size].decode("utf-8", "replace")
            place += size
    except (IndexError, KeyError, struct.error) as error:
        raise Malformed("a frame's headers are damaged") from error
    if place > len(data):
        raise Malformed("a frame's headers are damaged")
    return headers
