"""Makes the text of a model safe for a terminal.

A model can be made to write escape sequences that set the clipboard (OSC 52) or the title, or hide
or fake lines, and bidirectional overrides that show text in another order.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from spillover.runtime.text.surrogates import valid_text

_ESC = "\x1b"
_NOT_PLAIN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CSI, _SS3 = "\x9b", "\x8f"
_STRINGS = "\x90\x98\x9d\x9e\x9f"
"""DCS, SOS, OSC, PM, APC as single characters; after ESC they are P X ] ^ _."""


class _State(Enum):
    TEXT = auto()
    ESCAPE = auto()
    """After ESC and any intermediate characters."""
    CSI = auto()
    STRING = auto()
    """Inside OSC, DCS, SOS, PM or APC."""
    ONE_MORE = auto()
    """After SS2 or SS3, which take one more character."""


class TerminalFilter:
    """Removes escape sequences, bidi overrides and control characters except tab and newline.

    A sequence may be split over any number of calls. A newline ends an unfinished sequence, so
    that a model can hide at most the rest of a line.
    """

    def __init__(self) -> None:
        self._state = _State.TEXT

    def feed(self, text: str) -> str:
        """The part of *text* that may go to a terminal."""
        if self._state is _State.TEXT and not _NOT_PLAIN.search(text):
            return text
        return "".join(char for char in text if self._passes(char))

    def _passes(self, char: str) -> bool:
        """Whether *char* is shown; enters the next state."""
        if char == "\n":
            self._state = _State.TEXT
            return True
        if char == _ESC:
            self._state = _State.ESCAPE
            return False
        if self._state is _State.TEXT or "\x80" <= char <= "\x9f":
            return self._text(char)
        self._state = self._next(char)
        return False

    def _text(self, char: str) -> bool:
        self._state = _after_c1(char)
        return not _NOT_PLAIN.match(char)

    def _next(self, char: str) -> _State:
        if char in "\x18\x1a":  # CAN and SUB end any sequence
            return _State.TEXT
        match self._state:
            case _State.ESCAPE:
                return _after_escape(char)
            case _State.CSI:
                return _State.TEXT if "\x40" <= char <= "\x7e" else _State.CSI
            case _State.STRING:
                return _State.TEXT if char == "\x07" else _State.STRING
            case _:
                return _State.TEXT


def _after_c1(char: str) -> _State:
    if char == _CSI:
        return _State.CSI
    if char in _STRINGS:
        return _State.STRING
    return _State.ONE_MORE if char in ("\x8e", _SS3) else _State.TEXT


def _after_escape(char: str) -> _State:
    if "\x20" <= char <= "\x2f":
        return _State.ESCAPE
    if "\x40" <= char <= "\x5f":  # ESC and one of these are a C1 control in two characters
        return _after_c1(chr(ord(char) + 0x40))
    return _State.TEXT


def safe(text: str) -> str:
    """*text* as a whole, such as a message that quotes a file name, for a terminal."""
    return TerminalFilter().feed(valid_text(text))
