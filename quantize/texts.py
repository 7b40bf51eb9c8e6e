"""Texts that users give for calibration and evaluation."""

from __future__ import annotations

from pathlib import Path

from spillover.runtime.errors import SpilloverError

MOST_BYTES = 16 << 20


class TextError(SpilloverError):
    """The text cannot be used; the message says why and what to do."""


def read_text(path: Path) -> str:
    """The text in a UTF-8 file. Raises TextError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise TextError(f"{path} is larger than {MOST_BYTES >> 20} MiB: give a part of it")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not text in UTF-8: {error}") from error
