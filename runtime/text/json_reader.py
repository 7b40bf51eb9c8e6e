"""Reads a JSON document while it is being written: where it ends, where it breaks, what is cut."""

from __future__ import annotations

import json
import re
from typing import Literal, TypeAlias

Opening: TypeAlias = Literal["{", "[", ""]
"""What a document must begin with; "": any value."""

MAX_DEPTH = 512
MAX_SCALAR_CHARS = 400
"""A longer number is a runaway."""

_Expected: TypeAlias = Literal[
    "value", "value or ]", "key", "key or }", ":", ", or close", "key string", "string", "scalar",
    "end",
]  # fmt: skip

_STRINGS = ("string", "key string")
_BLANKS = " \t\n\r"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_HEX = frozenset("0123456789abcdefABCDEF")
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB]")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\.", re.DOTALL)

_DIGITS = "0123456789"
_NUMBER = {
    "": {"-": "-", "0": "0", "123456789": "1"},
    "-": {"0": "0", "123456789": "1"},
    "0": {".": "1.", "eE": "1e"},
    "1": {_DIGITS: "1", ".": "1.", "eE": "1e"},
    "1.": {_DIGITS: "1.1"},
    "1.1": {_DIGITS: "1.1", "eE": "1e"},
    "1e": {"+-": "1e+", _DIGITS: "1e1"},
    "1e+": {_DIGITS: "1e1"},
    "1e1": {_DIGITS: "1e1"},
}
"""RFC 8259's number: each state is the shortest text that leads to it."""
_WORDS = ("true", "false", "null")
_NEXT = {
    (state, character): after
    for state, steps in _NUMBER.items()
    for characters, after in steps.items()
    for character in characters
} | {(word[:n], word[n]): word[: n + 1] for word in _WORDS for n in range(len(word))}
_WHOLE_SCALARS = frozenset(("0", "1", "1.1", "1e1", *_WORDS))


class JsonReader:
    """A push-down automaton over one document (RFC 8259), at a constant cost per character.

    Lone surrogate escapes are allowed, as the grammar allows them. *opening*: what the document
    must begin with. *alone*: anything but white space after the document breaks it; otherwise
    what comes after it does not belong to it.
    """

    __slots__ = (
        "_alone", "_escape", "_expected", "_high", "_n_read", "_n_scalar", "_opening", "_scalar",
        "_stack", "error_at",
    )  # fmt: skip

    def __init__(self, opening: Opening = "", *, alone: bool = False) -> None:
        self.error_at: int | None = None
        """Where the text stops being the beginning of a document."""
        self._opening = opening
        self._alone = alone
        self._stack: list[str] = []
        self._expected: _Expected = "value"
        self._scalar = ""
        self._n_scalar = 0
        self._escape = ""
        self._high = ""
        """The first half of a surrogate pair, while its second half may come."""
        self._n_read = 0

    @property
    def is_broken(self) -> bool:
        return self.error_at is not None

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole document; a number may still get longer."""
        is_whole = not self._stack and self._scalar in _WHOLE_SCALARS
        return not self.is_broken and (self.has_ended or is_whole)

    @property
    def has_ended(self) -> bool:
        """Whether the document is whole and cannot go on."""
        return self._expected == "end" and self.error_at is None

    @property
    def n_cut_escape(self) -> int:
        """How many last characters belong to an escape that is not whole: \\uD8, or \\uD83D
        without its second half."""
        return 0 if self.is_broken else len(self._high) + len(self._escape)

    def feed(self, text: str) -> int:
        """Take more of the text. Returns how many of its characters belong to the document: all,
        unless it ends or breaks before; after an error none."""
        at, n = 0, len(text)
        while at < n and self.error_at is None:
            if n > 1 and self._expected in _STRINGS and not self._escape:
                plain = _PLAIN.match(text, at)
                if plain is not None:
                    at, self._high = plain.end(), ""
                    continue
            if not self._take(text[at]):
                if self._expected != "end" or self._alone:
                    self.error_at = self._n_read + at
                break
            at += 1
        self._n_read += at
        return at

    def _take(self, character: str) -> bool:
        expected = self._expected
        if expected in _STRINGS:
            return self._in_string(character)
        if expected == "scalar":
            if self._in_scalar(character):
                return True
            if self._scalar not in _WHOLE_SCALARS or self._n_scalar > MAX_SCALAR_CHARS:
                return False
            self._value_done()
            expected = self._expected
        if character in _BLANKS:
            return expected != "end" or self._alone
        match expected:
            case "value" | "value or ]":
                return self._start_value(character)
            case "key" | "key or }":
                return self._start_key(character)
            case ":":
                self._expected = "value"
                return character == ":"
            case ", or close":
                return self._next_or_close(character)
        return False  # the document has ended

    def _start_value(self, character: str) -> bool:
        if self._opening and not self._stack and character != self._opening:
            return False
        if character == "]" and self._expected == "value or ]":
            return self._close("[")
        if character in "{[":
            self._stack.append(character)
            self._expected = "key or }" if character == "{" else "value or ]"
            return len(self._stack) <= MAX_DEPTH
        if character == '"':
            self._expected = "string"
            return True
        self._expected, self._n_scalar = "scalar", 0
        return self._in_scalar(character)

    def _start_key(self, character: str) -> bool:
        if character == "}" and self._expected == "key or }":
            return self._close("{")
        self._expected = "key string"
        return character == '"'

    def _next_or_close(self, character: str) -> bool:
        if character == ",":
            self._expected = "key" if self._stack[-1] == "{" else "value"
            return True
        return character in "}]" and self._close("{" if character == "}" else "[")

    def _close(self, opened: str) -> bool:
        if self._stack.pop() != opened:
            return False
        self._value_done()
        return True

    def _value_done(self) -> None:
        self._scalar = ""
        self._expected = ", or close" if self._stack else "end"

    def _in_scalar(self, character: str) -> bool:
        after = _NEXT.get((self._scalar, character))
        if after is None:
            return False
        self._scalar = after
        self._n_scalar += 1
        return self._n_scalar <= MAX_SCALAR_CHARS

    def _in_string(self, character: str) -> bool:
        if self._escape:
            return self._in_escape(character)
        if character == "\\":
            self._escape = character
            return True
        self._high = ""
        if character == '"':
            if self._expected == "key string":
                self._expected = ":"
            else:
                self._value_done()
        return character >= " "

    def _in_escape(self, character: str) -> bool:
        self._escape += character
        if len(self._escape) == 2:
            if character != "u":
                self._escape = self._high = ""
            return character in '"\\/bfnrtu'
        if len(self._escape) == 6:
            self._high = self._escape if _HIGH_SURROGATE.match(self._escape) else ""
            self._escape = ""
        return character in _HEX


def normalize_escapes(begun: str) -> str:
    """*begun*, the beginning of a JSON text, with the same characters in the one spelling that a
    grammar knows: \\u00e9 as the letter, \\/ as a slash. An escape that is cut stays as it is."""
    return _ESCAPES.sub(lambda found: _normalized(found[0]), begun)


def _normalized(escapes: str) -> str:
    try:
        text = json.loads(f'"{escapes}"')
    except ValueError:
        return escapes
    if any("\ud800" <= character <= "\udfff" for character in text):
        return escapes  # half a pair
    return json.dumps(text, ensure_ascii=False)[1:-1]
