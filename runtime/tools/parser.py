"""Parses tool calls out of a model's text, character by character, however the text is cut."""

from __future__ import annotations

import secrets
import string
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from spillover.runtime.text.json_reader import JsonReader
from spillover.runtime.text.surrogates import without_halves
from spillover.runtime.tools.arguments import (
    Broken,
    Characters,
    Reader,
    choose,
    next_visible,
    read_arguments,
)
from spillover.runtime.tools.opening import BLANKS, OpeningFinder
from spillover.runtime.tools.tool_format import ToolFormat
from spillover.runtime.tools.typed_values import Schema

MAX_CALLS = 128
_MAX_NAME_CHARS = 256
_ALPHABET = string.ascii_letters + string.digits


class CallDelta(Struct, frozen=True):
    """A part of a call: the first one has *id* and *name*."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Piece: TypeAlias = str | CallDelta


class _Value(NamedTuple):
    """A JSON value: its text, its meaning, and the character after it if that had to be read to see
    the end (of a number, true, false, null)."""

    text: str
    decoded: Any
    behind: str


class ToolParser:
    """Text in; text and parts of calls out.

    A call is shown once it is whole and its name is one of *tools*, which map names to the schemas
    of arguments. Anything that only looks like
    a call, or breaks off, is text, to the last character. White space around calls is dropped.

    *streams*, for calls that a grammar constrains: arguments are shown as they come; of a call
    that breaks off, the part that was shown stays, and its markup never becomes text.
    *only_calls*: the grammar allows no text at all.
    """

    def __init__(
        self,
        format: ToolFormat,
        tools: Mapping[str, Schema],
        *,
        streams: bool,
        only_calls: bool = False,
    ) -> None:
        self._format = format
        self._tools = tools
        self._streams = streams
        self._only_calls = only_calls
        self._text = OpeningFinder(format.opening, may_be_bare=format.may_be_bare)
        self._out: list[Piece] = []
        self._held = ""
        """What was read of a call and not shown."""
        self._in_text = True
        self._is_sure = False
        """What is held belongs to a call, even if that breaks off."""
        self._name: str | None = None
        self._written: list[str] = []
        """The arguments of a call that is read, where they are not written as JSON."""
        self._n_sent = 0
        self._is_announced = False
        self.n_calls = 0
        """Whole calls."""
        self._reader = self._read()
        next(self._reader)

    @property
    def has_open_call(self) -> bool:
        """Whether the last call that was shown is not whole yet."""
        return self._is_announced

    def feed(self, text: str) -> list[Piece]:
        """What *text* settles."""
        if text and self._in_text and self._text.is_plain(text):
            return [text]
        for character in text:
            if not self._in_text:
                self._held += character
            self._reader.send(character)
        return self._taken()

    def flush(self) -> list[Piece]:
        """What is still held back, at the end of the answer."""
        self._reader.close()
        if not (self._only_calls or self._is_sure):
            self._show(self._text.take() + self._held)
        self._held = ""
        return self._taken()

    def _taken(self) -> list[Piece]:
        """The pieces so far; neighbours of one kind become one piece."""
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

    # --- text and calls ---------------------------------------------------------------------

    def _read(self) -> Reader:
        while True:
            while not self._text.has_opened:
                self._show(self._text.feed((yield)))
            self._held, self._in_text = self._text.take(), False
            is_bare = not self._held.endswith(self._format.opening)
            self._is_sure = self._streams and not is_bare
            try:
                yield from self._read_calls(is_bare=is_bare)
            except Broken:
                self._show(self._held)
                self._is_announced = False
            self._held, self._in_text, self._is_sure = "", True, False

    def _read_calls(self, *, is_bare: bool) -> Reader:
        """Everything after one opening. What is held when it breaks is text."""
        format = self._format
        first = "{" if is_bare else (yield from next_visible())
        if format.encoding != "object" and not self._is_object(first):
            yield from self._read_written(first)
        elif format.is_list and first == "[":
            yield from self._read_list()
            if closing := format.closing.strip():
                yield from choose((yield from next_visible()), closing)
        else:
            yield from self._read_object(first)
            yield from self._read_end()

    def _is_object(self, first: str) -> bool:
        """Some models write an object where their name and arguments belong."""
        return first == "{" and self._format.encoding == "json" and not self._format.call_opening

    def _read_list(self) -> Reader:
        after = ","
        while after == ",":
            yield from self._read_object((yield from next_visible()))
            after = yield from next_visible()
        if after != "]":
            raise Broken

    def _read_written(self, first: str) -> Reader:
        """Calls whose names do not stand in objects."""
        opening = self._format.call_opening.strip()
        if self._format.is_list:
            yield from choose(first, "[")
            first = yield from next_visible()
        while first:
            if opening:
                yield from choose(first, opening)
            yield from self._read_named("" if opening else first)
            first = yield from self._read_between(opening)

    def _read_between(self, opening: str) -> Characters:
        """What follows a call. Returns how the next one begins; empty if none does."""
        format = self._format
        closing = format.closing.strip()
        if format.is_list:
            if (yield from choose((yield from next_visible()), ",", "]")) == ",":
                return (yield from next_visible())
        elif format.is_sequence:
            mark = yield from choose((yield from next_visible()), opening, closing)
            return opening if mark == opening else ""
        if closing:
            yield from choose((yield from next_visible()), closing)
        return ""

    def _read_named(self, head: str) -> Reader:
        """A name, arguments, and the mark that ends the call."""
        format = self._format
        is_json = format.encoding == "json"
        # Without a separator the first key, or the end of the call, follows the name.
        mark = "{" if is_json else format.separator.strip() or format.key_opening.strip()[0]
        while not head.endswith(mark):
            head += yield
            if len(head) > _MAX_NAME_CHARS:
                raise Broken
        self._name = format.name_in(head.removesuffix(mark))
        self._announce()
        if is_json:
            arguments = yield from self._read_value("{", streams=True)
            if closing := format.call_closing.strip():
                yield from choose((yield from next_visible()), closing)
            self._keep(arguments)
            return
        self._written = []
        first = "" if format.separator else mark
        schema = self._tools[self._name]
        yield from read_arguments(format, schema, first, self._write)
        self._keep(_Value("".join(self._written), {}, ""))

    def _read_end(self) -> Reader:
        """The closing tag; without one, more calls after semicolons."""
        closing = self._format.closing.strip()
        while not closing or self._format.is_sequence:
            character = yield from next_visible()
            if character == "{":
                yield from self._read_object(character)
            elif closing:
                yield from choose(character, closing)
                return
            elif character != ";":
                raise Broken
        yield from choose((yield from next_visible()), closing)

    # --- one call ---------------------------------------------------------------------------

    def _read_object(self, first: str) -> Reader:
        """{"name": …, "arguments": …}, in any order and with other members."""
        if first != "{":
            raise Broken
        self._name = None
        arguments = _Value("{}", {}, "")
        after = yield from next_visible()
        while after != "}":
            key = (yield from self._read_value(after)).decoded
            if (yield from next_visible()) != ":":
                raise Broken
            is_arguments = key in (self._format.arguments, "arguments", "parameters")
            start = yield from next_visible()
            value = yield from self._read_value(start, streams=is_arguments)
            if is_arguments:
                arguments = value
            elif key in ("name", self._format.name_member):
                self._name = str(value.decoded)
                self._announce()
            after = value.behind or " "
            if after in BLANKS:
                after = yield from next_visible()
            if after == ",":
                after = yield from next_visible()
            elif after != "}":
                raise Broken
        self._keep(arguments)

    def _read_value(self, first: str, *, streams: bool = False) -> Generator[None, str, _Value]:
        """A value. It *streams* only if its call has been announced, not if the name comes last."""
        reader, parts = JsonReader(), list[str]()
        streams = streams and self._is_announced
        character = first
        while reader.feed(character):
            parts.append(character)
            if streams:
                self._stream(character)
            if reader.has_ended:
                character = ""
                break
            character = yield
        if reader.is_broken:
            raise Broken
        text = "".join(parts)
        # What was streamed stands, even an escape that no decoder takes: half a surrogate pair.
        return _Value(text, None if streams else _decoded(text), character)

    # --- output -----------------------------------------------------------------------------

    def _check_name(self) -> None:
        if self._name not in self._tools or self.n_calls >= MAX_CALLS:
            raise Broken

    def _announce(self) -> None:
        """Show the call's name, if its arguments are streamed."""
        self._check_name()
        if self._streams:
            self._is_announced = self._is_sure = True
            self._n_sent, self._held = 0, ""
            self._out.append(CallDelta(self.n_calls, self._new_id(), self._name))

    def _stream(self, text: str) -> None:
        self._n_sent += len(text)
        self._held = ""
        self._out.append(CallDelta(self.n_calls, arguments=text))

    def _write(self, text: str) -> None:
        """A part of arguments that were not written as JSON."""
        self._written.append(text)
        if self._is_announced:
            self._stream(text)

    def _keep(self, arguments: _Value) -> None:
        """The call is whole."""
        self._check_name()
        if self._is_announced:
            if rest := arguments.text[self._n_sent :]:
                self._out.append(CallDelta(self.n_calls, arguments=rest))
        else:
            text, value = arguments.text, arguments.decoded
            if isinstance(value, str):  # some models write the object as a string
                text, value = value, _decoded(value)
            if not isinstance(value, dict):
                raise Broken
            self._out.append(CallDelta(self.n_calls, self._new_id(), self._name, text))
        self.n_calls += 1
        self._held, self._is_announced = "", False

    def _new_id(self) -> str:
        n = self._format.id_chars
        prefix = "" if n < 16 else "call_"
        return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(n))


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(without_halves(text.encode("utf-8", "replace")))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Broken from error
