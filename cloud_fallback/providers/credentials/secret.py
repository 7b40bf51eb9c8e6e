"""A text that must not be seen."""

from __future__ import annotations

from typing import NoReturn

HIDDEN = "********"


class Secret:
    """Shows itself only through reveal(); never in a log, an error, a repr or a dump."""

    __slots__ = ("__value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self.__value = value
        self.origin = origin
        """Where it was found: "OPENAI_API_KEY", "keyring"."""

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")


def is_header_text(text: str) -> bool:
    """Whether *text* is not empty and printable ASCII, so that it cannot end an HTTP header."""
    return bool(text) and text.isascii() and text.isprintable()
