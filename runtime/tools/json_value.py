"""One JSON value, character by character."""

from __future__ import annotations

from typing import Any

import msgspec

_BLANKS = " \t\r\n"
_MAX_DEPTH = 64


class NoJson(Exception):
    """This is no JSON value."""


class JsonValue:
    """Begins with *first*. Raises NoJson as soon as it is known to be none."""

    def __init__(self, first: str) -> None:
        self._parts: list[str] = []
        self._open = ""
        self._in_string = False
        self._is_escaped = False
        self.is_word = first not in '{["'
        """A number, true, false or null: its end is seen only in what comes behind it."""
        self.is_whole = False
        """Nothing more belongs to it."""
        self.feed(first)

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def feed(self, character: str) -> bool:
        """Take the next character; False when it is the first one behind a number or a word."""
        if self.is_word and character in ",}]" + _BLANKS:
            self._end()
            return False
        self._parts.append(character)
        if self._in_string:
            self._take_inside_string(character)
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._open += character
            if len(self._open) > _MAX_DEPTH:
                raise NoJson
        elif character in "}]":
            if self._open[-1:] + character not in ("{}", "[]"):
                raise NoJson
            self._open = self._open[:-1]
        if not (self.is_word or self._open or self._in_string):
            self._end()
        return True

    def _take_inside_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        else:
            self._in_string = character != '"'

    def _end(self) -> None:
        decoded(self.text)
        self.is_whole = True


def decoded(text: str) -> Any:
    """The value that *text* stands for. Raises NoJson."""
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise NoJson from error
