"""Follows a JSON document that is still being written."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_BLANK = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_BEGUN = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:(?<=[0-9])[eE][+-]?[0-9]*)?)?")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_ESCAPE_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_HIGH = re.compile(r"\\u[dD][89abAB]")
_LITERALS = ("true", "false", "null")

_Expected: TypeAlias = Literal["value", "value_or_end", "key", "key_or_end", "colon", "comma"]


class JsonPrefix:
    """Takes a document in pieces; says whether it still can become valid, and where it ends.

    Looks at structure, strings and numbers as RFC 8259 has them; any value may stand at the top.
    """

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._expected: _Expected = "value"
        self._in_string = False
        self._is_key = False
        self._scalar = ""
        self._escape = ""
        self.is_bad = False
        self.is_done = False

    @property
    def n_cut_escape(self) -> int:
        """How many last characters belong to an escape that is not whole: \\uD8, or \\uD83D
        without its second half."""
        return len(self._escape)

    @property
    def in_string(self) -> bool:
        """Whether the text so far ends within a string or a name."""
        return self._in_string

    def feed(self, text: str) -> int:
        """How many of the characters of *text* belong to the document."""
        at = 0
        while at < len(text) and not (self.is_bad or self.is_done):
            if self._in_string:
                at = self._string(text, at)
            elif self._scalar:
                at = self._number_or_literal(text, at)
            else:
                at = self._between(text, _BLANK.match(text, at).end())  # type: ignore[union-attr]
        return at

    def _string(self, text: str, at: int) -> int:
        if not self._escape:
            run = _PLAIN.match(text, at)
            assert run is not None
            at = run.end()
            if at == len(text):
                return at
        character = text[at]
        if character == "\\" or self._is_inside_escape(character):
            self._escape += character
            self._check_escape()
        elif character == '"':
            self._escape = ""
            self._in_string = False
            self._expected = "colon" if self._is_key else self._after_value()
        elif character < " ":
            self.is_bad = True
        else:
            self._escape = ""
        return at + 1

    def _is_inside_escape(self, character: str) -> bool:
        """Whether *character* goes on with the escape that was begun."""
        last = self._escape[self._escape.rfind("\\") :] if self._escape else ""
        return bool(last) and not _ESCAPE.fullmatch(last)

    def _check_escape(self) -> None:
        first, second = self._escape[:6], self._escape[6:]
        if second:
            # A half without its partner is allowed by the grammar; it waits no longer.
            if _ESCAPE.fullmatch(second):
                self._escape = second if _HIGH.match(second) else ""
            elif not _ESCAPE_BEGUN.fullmatch(second):
                self.is_bad = True
        elif _ESCAPE.fullmatch(first):
            self._escape = first if _HIGH.match(first) else ""
        elif not _ESCAPE_BEGUN.fullmatch(first):
            self.is_bad = True

    def _number_or_literal(self, text: str, at: int) -> int:
        character = text[at]
        longer = self._scalar + character
        if _is_scalar_begun(longer):
            self._scalar = longer
            return at + 1
        if self._scalar not in _LITERALS and not _NUMBER.fullmatch(self._scalar):
            self.is_bad = True
            return at
        self._scalar = ""
        self._expected = self._after_value()
        return at

    def _between(self, text: str, at: int) -> int:
        if at == len(text):
            return at
        character = text[at]
        if self._expected in ("value", "value_or_end") and self._opens_value(character):
            return at + 1
        match self._expected, character:
            case (("key" | "key_or_end"), '"'):
                self._in_string = self._is_key = True
            case "colon", ":":
                self._expected = "value"
            case "comma", ",":
                self._expected = "key" if self._stack[-1] == "{" else "value"
            case (("comma" | "key_or_end"), "}") if self._stack[-1] == "{":
                self._close()
            case (("comma" | "value_or_end"), "]") if self._stack[-1] == "[":
                self._close()
            case _:
                self.is_bad = True
                return at
        return at + 1

    def _opens_value(self, character: str) -> bool:
        if character == '"':
            self._in_string, self._is_key = True, False
        elif character in "{[":
            self._stack.append(character)
            self._expected = "key_or_end" if character == "{" else "value_or_end"
        elif _is_scalar_begun(character):
            self._scalar = character
        else:
            return False
        return True

    def _close(self) -> None:
        self._stack.pop()
        self._expected = self._after_value()

    def _after_value(self) -> _Expected:
        self.is_done = not self._stack
        return "comma"


def _is_scalar_begun(text: str) -> bool:
    return bool(_NUMBER_BEGUN.fullmatch(text)) or any(
        literal.startswith(text) for literal in _LITERALS
    )


def n_cut_escape(text: str) -> int:
    """How many last characters of the unfinished document *text* belong to a cut escape."""
    document = JsonPrefix()
    document.feed(text)
    return 0 if document.is_bad else document.n_cut_escape
