"""Texts that users give for calibration and evaluation."""

from __future__ import annotations

from pathlib import Path

from spillover.quantize.errors import QuantizeError

MOST_BYTES = 16 << 20


OWN_TEXT = Path(__file__).with_name("gguf") / "calibration.txt"
"""The text that ships with the package for calibration; evaluations read another one."""


def calibration_text() -> str:
    return OWN_TEXT.read_text("utf-8")


def read_text(path: Path) -> str:
    """The text in a UTF-8 file, which is not empty. Raises QuantizeError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise QuantizeError(f"{path} is larger than {MOST_BYTES >> 20} MiB: give a part of it")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise QuantizeError(f"{path} is not text in UTF-8: {error}") from error
    if not text.strip():
        raise QuantizeError(f"{path} is empty: give a text, some thousands of words are good")
    return text
