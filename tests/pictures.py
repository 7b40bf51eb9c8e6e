"""Small real images."""

from __future__ import annotations

import base64
import struct
import zlib


def _chunk(name: bytes, data: bytes) -> bytes:
    end = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + end


def png(red: int = 200) -> bytes:
    """One pixel."""
    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(bytes([0, red, 0, 0]))
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", pixel) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def gif() -> bytes:
    """One transparent pixel."""
    return bytes.fromhex(
        "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
    )


JPEG_HEAD = bytes.fromhex("ffd8ffe000104a46494600010100000100010000")
WEBP_HEAD = b"RIFF\x24\x00\x00\x00WEBPVP8 "


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64_of(content)}"
