"""Copies of a GGUF file with more metadata than it came with."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

_HEADER_BYTES = 24
_UINT32, _STRING = 4, 8
_ALIGNMENT = 32


def with_numbers(source: Path, target: Path, numbers: dict[str, int]) -> Path:
    """*target*: *source* with uint32 metadata added in front, its tensors as aligned as before."""
    content = source.read_bytes()
    magic, version, n_tensors, n_values = struct.unpack_from("<4sIQQ", content)
    added = b"".join(
        _string(name) + struct.pack("<II", _UINT32, value) for name, value in numbers.items()
    )
    filler = _string("test.filler") + struct.pack("<I", _STRING)
    n_missing = -(len(added) + len(filler) + 8) % _ALIGNMENT
    added += filler + _string("x" * n_missing)
    header = struct.pack("<4sIQQ", magic, version, n_tensors, n_values + len(numbers) + 1)
    target.write_bytes(header + added + content[_HEADER_BYTES:])
    return target


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def with_values(source: Path, target: Path, values: Mapping[str, bool | int | str]) -> Path:
    """*target*: *source* with other values of keys that it has. A text is cut or filled up with
    blanks to the length of the one before, so that everything stays in its place; a number is an
    uint32."""
    content = bytearray(source.read_bytes())
    for name, value in values.items():
        at = content.index(_string(name)) + len(_string(name)) + 4
        if isinstance(value, bool):
            content[at] = value
        elif isinstance(value, int):
            struct.pack_into("<I", content, at, value)
        else:
            (length,) = struct.unpack_from("<Q", content, at)
            content[at + 8 : at + 8 + length] = value.encode().ljust(length)[:length]
    target.write_bytes(content)
    return target
