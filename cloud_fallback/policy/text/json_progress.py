"""Checks JSON while it grows, character by character, and says where it breaks."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Opening: TypeAlias = Literal["{", "[", ""]
"""What a document must begin with; "": any value."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE = " \t\n\r"
_NUMBER_START = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = ("true", "false", "null")
_MAX_DEPTH = 512
_MAX_ATOM = 400


class JsonProgress:
    """A push-down automaton over one JSON document. What follows a complete document, but for
    white space, is an error, too."""

    __slots__ = ("_at", "_atom", "_escape", "_expects", "_opening", "_stack", "error_at")

    def __init__(self, opening: Opening = "") -> None:
        self.error_at: int | None = None
        """Where the text stops being the beginning of a document."""
        self._opening = opening
        self._stack: list[str] = []
        self._expects = "value"
        self._atom = ""
        self._escape = ""
        self._at = 0

    @property
    def is_complete(self) -> bool:
        """Whether the text is a whole document."""
        if self.error_at is not None:
            return False
        return self._expects == "end" or (
            not self._stack and self._expects == "atom" and self._is_atom()
        )

    def feed(self, text: str) -> None:
        """Take more of the text; after an error nothing changes any more."""
        i, n = 0, len(text)
        while i < n and self.error_at is None:
            if self._expects == "string" and not self._escape:
                plain = _PLAIN.match(text, i)
                if plain is not None:
                    i = plain.end()
                    continue
            if not self._take(text[i]):
                self.error_at = self._at + i
            i += 1
        self._at += n

    def _take(self, char: str) -> bool:
        if self._expects in ("string", "key string"):
            return self._in_string(char)
        if self._expects == "atom":
            if char not in ",]}" and char not in _SPACE:
                return self._in_atom(char)
            if not self._is_atom():
                return False
            self._value_done()
        if char in _SPACE:
            return True
        match self._expects:
            case "value" | "value or ]":
                return self._start_value(char)
            case "key" | "key or }":
                return self._start_key(char)
            case ":":
                self._expects = "value"
                return char == ":"
            case ", or close":
                return self._next_or_close(char)
        return False  # the document was complete

    def _start_value(self, char: str) -> bool:
        if not self._stack and self._opening and char != self._opening:
            return False
        if char == "]" and self._expects == "value or ]":
            return self._close("[")
        if char in "{[":
            self._stack.append(char)
            self._expects = "key or }" if char == "{" else "value or ]"
            return len(self._stack) <= _MAX_DEPTH
        if char == '"':
            self._expects = "string"
            return True
        self._atom, self._expects = "", "atom"
        return self._in_atom(char)

    def _start_key(self, char: str) -> bool:
        if char == "}" and self._expects == "key or }":
            return self._close("{")
        self._expects = "key string"
        return char == '"'

    def _next_or_close(self, char: str) -> bool:
        if char == ",":
            self._expects = "key" if self._stack[-1] == "{" else "value"
            return True
        if char in "}]":
            return self._close("{" if char == "}" else "[")
        return False

    def _close(self, opened: str) -> bool:
        if not self._stack or self._stack.pop() != opened:
            return False
        self._value_done()
        return True

    def _value_done(self) -> None:
        self._expects = ", or close" if self._stack else "end"

    def _in_string(self, char: str) -> bool:
        if self._escape:
            return self._in_escape(char)
        if char == "\\":
            self._escape = char
        elif char == '"':
            if self._expects == "key string":
                self._expects = ":"
            else:
                self._value_done()
        return char >= " "

    def _in_escape(self, char: str) -> bool:
        if self._escape == "\\":
            self._escape = "\\u" if char == "u" else ""
            return char in '"\\/bfnrtu'
        self._escape = "" if len(self._escape) == 5 else self._escape + char
        return char in "0123456789abcdefABCDEF"

    def _in_atom(self, char: str) -> bool:
        atom = self._atom = self._atom + char
        if atom[0] in "-0123456789":
            return len(atom) <= _MAX_ATOM and _NUMBER_START.fullmatch(atom) is not None
        return any(word.startswith(atom) for word in _WORDS)

    def _is_atom(self) -> bool:
        return self._atom in _WORDS or _NUMBER.fullmatch(self._atom) is not None
