"""What may stand in an HTTP header."""

from __future__ import annotations


def is_header_text(text: str) -> bool:
    """Whether *text* is not empty and printable ASCII: nothing that could end the header."""
    return bool(text) and text.isascii() and text.isprintable()
