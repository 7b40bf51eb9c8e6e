"""Reads the JSON and template files beside a model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from spillover.models.errors import ModelFileError

MAX_BYTES = 16 << 20
MAX_TOKENIZER_BYTES = 64 << 20

_T = TypeVar("_T")


def read_small(path: Path) -> bytes | None:
    """The content of a JSON or template file; None when there is none.

    Raises ModelFileError for one that cannot be read, or is too large for its purpose.
    """
    try:
        if not path.is_file():
            return None
        most = MAX_TOKENIZER_BYTES if path.name == "tokenizer.json" else MAX_BYTES
        if path.stat().st_size > most:
            raise ModelFileError(f"{path} is too large for a file of this name")
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith(b"version https://git-lfs"):
        raise ModelFileError(f"{path} is a Git LFS pointer: run `git lfs pull` to get the file")
    return content


def decode_json(content: bytes, kind: type[_T], path: Path) -> _T:
    """The value in *content*, which comes from *path*. Raises ModelFileError."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:  # RecursionError: 100,000 brackets
        raise ModelFileError(f"{path} cannot be read: {error}") from error
