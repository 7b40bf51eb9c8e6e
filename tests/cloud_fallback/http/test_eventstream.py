"""AWS's binary frames are read as botocore reads them, wherever the network cuts."""

from __future__ import annotations

import json
import struct
import zlib
from itertools import pairwise
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.http.errors import Malformed
from spillover.cloud_fallback.http.eventstream import EventStream
from spillover.cloud_fallback.http.frame import Frame
from tests.fakes.streams.bedrock import frame

STREAM = (
    frame("messageStart", {"role": "assistant"})
    + frame("contentBlockDelta", {"delta": {"text": "Grüße 👋"}})
    + frame("throttlingException", {"message": "slow down"}, "exception")
)


def packed(headers: bytes, payload: bytes) -> bytes:
    """A message with correct checksums."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def read(*chunks: bytes) -> list[Frame]:
    stream = EventStream()
    return [found for chunk in chunks for found in stream.feed(chunk)] + stream.end()


def read_by_botocore(stream: bytes) -> list[Frame]:
    buffer: Any = EventStreamBuffer()
    buffer.add_data(stream)
    frames = []
    for message in buffer:
        kind = message.headers[":message-type"]
        name = message.headers[f":{kind}-type"]
        frames.append(Frame(name=name, data=message.payload, is_exception=kind == "exception"))
    return frames


def test_frames_are_what_botocore_sees() -> None:
    found = read(STREAM)
    assert found == read_by_botocore(STREAM)
    assert [f.name for f in found] == ["messageStart", "contentBlockDelta", "throttlingException"]
    assert json.loads(found[1].data)["delta"]["text"] == "Grüße 👋"
    assert [f.is_exception for f in found] == [False, False, True]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_cut_gives_the_same_frames(places: list[int]) -> None:
    borders = [0, *sorted(places), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(borders)]
    assert read(*chunks) == read(STREAM)


def test_headers_of_every_type_are_passed_over() -> None:
    values = {
        0: b"",
        1: b"",
        2: b"\1",
        3: b"\0\1",
        4: bytes(4),
        5: bytes(8),
        6: b"\0\3abc",
        8: bytes(8),
        9: bytes(16),
    }
    others = b"".join(b"\1%d" % kind + bytes([kind]) + value for kind, value in values.items())
    name = b"\x0b:event-type\x07\0\1x"
    message = packed(others + name + b"\x0d:message-type\x07\0\5event", b"{}")
    assert read(message) == [Frame(name="x", data=b"{}")]
    assert read_by_botocore(message) == [Frame(name="x", data=b"{}")]


def test_an_error_message_has_its_text_in_its_headers() -> None:
    headers = (
        b"\x0d:message-type\x07\0\5error\x0b:error-code\x07\0\4Oops\x0e:error-message\x07\0\3Hot"
    )
    expected = Frame(name="Oops", data=b'{"message":"Hot"}', is_exception=True)
    assert read(packed(headers, b"")) == [expected]


@pytest.mark.parametrize("place", [0, 5, 9, 13, 40, len(STREAM) - 1])
def test_a_flipped_bit_is_noticed(place: int) -> None:
    damaged = bytearray(STREAM)
    damaged[place] ^= 1
    with pytest.raises(Malformed):
        read(bytes(damaged))


def test_a_frame_may_not_claim_more_than_the_limit() -> None:
    prelude = struct.pack(">II", 2**31, 0)
    with pytest.raises(Malformed, match="claims 2147483648 bytes"):
        read(prelude + struct.pack(">I", zlib.crc32(prelude)))


def test_headers_may_not_reach_beyond_their_frame() -> None:
    with pytest.raises(Malformed, match="headers"):
        read(packed(b"\x05abc", b""))


def test_an_unfinished_frame_is_the_tail() -> None:
    stream = EventStream()
    assert stream.feed(STREAM[:7]) == []
    assert stream.tail == STREAM[:7]


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_hostile_bytes_are_frames_or_malformed(headers: bytes, payload: bytes) -> None:
    for stream in (headers + payload, packed(headers, payload)):
        try:
            read(stream)
        except Malformed:
            continue
