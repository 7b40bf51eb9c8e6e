"""A small JSON file that keeps one value: read whole, and replaced in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_MAX_BYTES = 1 << 20


def read_json(path: Path, kind: type[T]) -> T | None:
    """The value in *path*; None if the file is missing, too large, damaged or of another kind."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Replace *path*, and make its folder if need be. Raises OSError."""
    content = msgspec.json.encode(value)
    if indent is not None:
        content = msgspec.json.format(content, indent=indent) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
