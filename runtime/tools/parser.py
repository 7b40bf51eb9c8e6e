"""Tool calls out of a model's text, character by character: how the text was cut is no matter."""

from __future__ import annotations

import secrets
import string
from collections.abc import Generator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from spillover.runtime.tools.formats import ToolFormat

MAX_CALLS = 128
_MAX_DEPTH = 64
_MAX_HELD_BLANKS = 64
_BLANKS = " \t\r\n"
_ALPHABET = string.ascii_letters + string.digits


class CallDelta(Struct, frozen=True):
    """A part of a call: the first one has *id* and *name*."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Piece: TypeAlias = str | CallDelta
_Reader: TypeAlias = Generator[None, str, Any]


class _Broken(Exception):
    """This is no call."""


class ToolParser:
    """Text in; text and parts of calls out.

    A call is shown once it is whole and its name is one of *names*: what only looks like one, or
    breaks off, is text, to the last character. With *streams*, for answers whose calls a grammar
    holds to their form, arguments are shown as they come. White space around calls is dropped.
    """

    def __init__(self, format: ToolFormat, names: frozenset[str], *, streams: bool) -> None:
        self._format = format
        self._names = names
        self._streams = streams
        self._out: list[Piece] = []
        self._held = ""
        self._in_text = True
        self._is_at_start = True
        self._name: str | None = None
        self._sent = ""
        self._is_announced = False
        self.n_calls = 0
        """Calls that are whole."""
        self._reader = self._read()
        next(self._reader)

    def feed(self, text: str) -> list[Piece]:
        """What *text* settles."""
        if self._is_plain(text):
            return [text]
        for character in text:
            self._reader.send(character)
        return self._taken()

    def _is_plain(self, text: str) -> bool:
        """Whether nothing of *text* can belong to a call."""
        return (
            self._in_text
            and not (self._held or self._is_at_start)
            and bool(text)
            and self._format.opening[0] not in text
            and text[-1] not in _BLANKS
        )

    def flush(self) -> list[Piece]:
        """What is still held back, at the end of the answer."""
        self._show(self._held)
        self._held = ""
        self._reader.close()
        return self._taken()

    def _taken(self) -> list[Piece]:
        """Neighbours become one."""
        pieces: list[Piece] = []
        for piece in self._out:
            last = pieces[-1] if pieces else None
            if isinstance(piece, str) and isinstance(last, str):
                pieces[-1] = last + piece
            elif (
                isinstance(piece, CallDelta)
                and isinstance(last, CallDelta)
                and piece.id is None
                and piece.index == last.index
            ):
                pieces[-1] = msgspec.structs.replace(
                    last, arguments=last.arguments + piece.arguments
                )
            else:
                pieces.append(piece)
        self._out.clear()
        return pieces

    def _show(self, text: str) -> None:
        if text:
            self._out.append(text)

    # --- text -------------------------------------------------------------------------------

    def _read(self) -> _Reader:
        while True:
            self._in_text = True
            yield from self._read_text()
            self._in_text = False
            try:
                yield from self._read_calls()
            except _Broken:
                self._show(self._held)
                self._held = ""
                self._is_announced = False

    def _read_text(self) -> _Reader:
        """Return when the opening of a call has been held back, or the brace of a bare one."""
        while True:
            self._held += yield
            rest = self._held.lstrip(_BLANKS)
            if rest == self._format.opening or self._is_bare(rest):
                self._is_at_start = False
                return
            self._release_text(rest)

    def _is_bare(self, rest: str) -> bool:
        return self._format.may_be_bare and self._is_at_start and rest == "{"

    def _release_text(self, rest: str) -> None:
        """Hold back only white space and the beginning of an opening."""
        opening = self._format.opening
        if (not rest and len(self._held) <= _MAX_HELD_BLANKS) or (
            rest and opening.startswith(rest)
        ):
            return
        self._is_at_start = False
        held = self._held
        for start in range(1, len(held) + 1):
            tail = held[start:].lstrip(_BLANKS)
            if (not tail and start < len(held)) or (tail and opening.startswith(tail)):
                break
        self._held = held[start:] if len(held) - start <= _MAX_HELD_BLANKS else ""
        self._show(held[: len(held) - len(self._held)])

    # --- calls ------------------------------------------------------------------------------

    def _read_calls(self) -> _Reader:
        """All that one opening opens. What is held back is the text of calls that are not shown;
        the caller shows it when it is broken."""
        if self._held.lstrip(_BLANKS) != "{":
            yield from self._next_visible()
        if self._format.is_list and self._held[-1] == "[":
            yield from self._read_list()
        elif self._format.separator and self._held[-1] != "{":
            yield from self._read_named()
        else:
            yield from self._read_object()
            self._end_call()
            yield from self._read_closing()

    def _next_visible(self) -> Generator[None, str, str]:
        """The next character that is no white space; it is held back, as all before it."""
        while True:
            character = yield
            self._held += character
            if character not in _BLANKS:
                return character

    def _read_list(self) -> _Reader:
        character = yield from self._next_visible()
        while True:
            if character != "{":
                raise _Broken
            yield from self._read_object()
            self._end_call()
            character = yield from self._next_visible()
            if character == "]":
                self._held = ""
                return
            if character != ",":
                raise _Broken
            character = yield from self._next_visible()

    def _read_named(self) -> _Reader:
        """name[ARGS]{…}"""
        name, separator = self._held[-1], self._format.separator
        while not name.endswith("{"):
            character = yield
            self._held += character
            name += character
            if len(name) > 256:
                raise _Broken
        self._name = name[:-1].strip(_BLANKS).removesuffix(separator)
        self._announce()
        text, _ = yield from self._read_value("{", self._stream)
        self._keep(text)
        self._end_call()

    def _read_closing(self) -> _Reader:
        """The closing tag, or, for bare calls, the semicolon before another one."""
        closing = self._format.closing
        if not closing:
            while True:
                character = yield from self._next_visible()
                if character == "{":
                    yield from self._read_object()
                    self._end_call()
                elif character != ";":
                    raise _Broken
        self._held += yield from self._until_visible(closing[0])
        for expected in closing[1:]:
            character = yield
            self._held += character
            if character != expected:
                raise _Broken
        self._held = ""

    def _until_visible(self, expected: str) -> Generator[None, str, str]:
        if (yield from self._next_visible()) != expected:
            raise _Broken
        return ""

    # --- one call ---------------------------------------------------------------------------

    def _read_object(self) -> _Reader:
        """The members of a call whose brace has come."""
        self._name = None
        arguments: str | None = None
        character = yield from self._next_visible()
        while character != "}":
            if character != '"':
                raise _Broken
            key, _ = yield from self._read_value(character, None)
            if (yield from self._next_visible()) != ":":
                raise _Broken
            character = yield from self._next_visible()
            is_arguments = _decoded(key) in (self._format.arguments, "arguments", "parameters")
            # A name that comes last is known too late for its arguments to be streamed.
            sink = self._stream if is_arguments and self._is_announced else None
            value, after = yield from self._read_value(character, sink)
            if is_arguments:
                arguments = value
            elif _decoded(key) == "name":
                self._name = str(_decoded(value))
                self._announce()
            if after is None or after in _BLANKS:
                after = yield from self._next_visible()
            if after == ",":
                character = yield from self._next_visible()
            elif after == "}":
                break
            else:
                raise _Broken
        self._keep("{}" if arguments is None else arguments)

    def _read_value(self, first: str, sink: Any) -> Generator[None, str, tuple[str, str | None]]:
        """One JSON value that begins with *first*: its text, and, for numbers and words, the
        character after it. *sink* takes its characters."""
        text, stack, in_string, is_escaped = "", "", False, False
        character = first
        is_word = first not in '{["'
        parts: list[str] = []
        while True:
            if is_word and not stack and character in ",}]" + _BLANKS:
                text = "".join(parts)
                _decoded(text)
                return text, character
            parts.append(character)
            if sink is not None:
                sink(character)
            if in_string:
                if is_escaped:
                    is_escaped = False
                elif character == "\\":
                    is_escaped = True
                else:
                    in_string = character != '"'
            elif character == '"':
                in_string = True
            elif character in "{[":
                stack += character
                if len(stack) > _MAX_DEPTH:
                    raise _Broken
            elif character in "}]":
                if not stack or stack[-1] + character not in ("{}", "[]"):
                    raise _Broken
                stack = stack[:-1]
            if not is_word and not stack and not in_string:
                text = "".join(parts)
                _decoded(text)
                return text, None
            character = yield
            self._held += character

    def _announce(self) -> None:
        """Show the name of a call, when its arguments are shown as they come."""
        if self._name not in self._names or self.n_calls >= MAX_CALLS:
            raise _Broken
        if self._streams:
            self._is_announced, self._sent, self._held = True, "", ""
            self._out.append(CallDelta(self.n_calls, self._new_id(), self._name))

    def _stream(self, character: str) -> None:
        if self._is_announced:
            self._sent += character
            self._held = ""
            self._out.append(CallDelta(self.n_calls, arguments=character))

    def _keep(self, arguments: str) -> None:
        """The call is whole."""
        if self._name not in self._names or self.n_calls >= MAX_CALLS:
            raise _Broken
        if self._is_announced:
            rest = arguments[len(self._sent) :]
            if rest:
                self._out.append(CallDelta(self.n_calls, arguments=rest))
            return
        value = _decoded(arguments)
        if isinstance(value, str):  # some models write the object as a text
            arguments, value = value, _decoded(value)
        if not isinstance(value, dict):
            raise _Broken
        self._out.append(CallDelta(self.n_calls, self._new_id(), self._name, arguments))

    def _end_call(self) -> None:
        self.n_calls += 1
        self._held = ""
        self._is_announced = False

    def _new_id(self) -> str:
        n = self._format.id_chars
        prefix = "" if n < 16 else "call_"
        return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(n))


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Broken from error
