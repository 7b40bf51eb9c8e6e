"""Readers of arguments that are not written as JSON. They are sent characters, and emit JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import TypeAlias

from spillover.runtime.tools.opening import BLANKS
from spillover.runtime.tools.tool_format import ITEM, ToolFormat
from spillover.runtime.tools.typed_values import Schema, is_text, json_of, kinds_of, part_of

Reader: TypeAlias = Generator[None, str, None]
Characters: TypeAlias = Generator[None, str, str]
Emit: TypeAlias = Callable[[str], None]

MAX_KEY_CHARS = 256
MAX_DEPTH = 64
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS = {"True": "true", "False": "false", "None": "null", "null": "null"}
_DELIMITERS = ",]})"


class Broken(Exception):
    """The text is not a tool call."""


def next_visible() -> Characters:
    while (character := (yield)) in BLANKS:
        pass
    return character


def choose(first: str, *marks: str) -> Characters:
    """The one of *marks* that the text spells, beginning with *first*."""
    read = first
    while read not in marks:
        if not any(mark.startswith(read) for mark in marks):
            raise Broken
        read += yield
    return read


def _until(mark: str, read: str = "") -> Characters:
    """What stands before *mark*."""
    while not read.endswith(mark):
        if len(read) > MAX_KEY_CHARS:
            raise Broken
        read += yield
    return read.removesuffix(mark)


def read_arguments(format: ToolFormat, parameters: Schema, first: str, emit: Emit) -> Reader:
    """The arguments and the mark that closes their call; *first* is their first character, if it
    has been read. *parameters* is their schema."""
    if format.encoding == "tags":
        yield from _read_tags(format, parameters, first, emit)
    elif format.encoding == "elements":
        yield from _read_elements(format, parameters, emit)
    else:
        yield from _read_literals(format, parameters, emit)


# --- tags ---------------------------------------------------------------------------------------


def _read_tags(format: ToolFormat, parameters: Schema, first: str, emit: Emit) -> Reader:
    key_opening, end = format.key_opening.strip(), format.call_closing.strip()
    between = "{"
    while True:
        start = first if first and first not in BLANKS else (yield from next_visible())
        first = ""
        if (yield from choose(start, key_opening, end)) == end:
            break
        key = (yield from _until(format.key_closing.strip())).strip(BLANKS)
        mark = ""
        if value_opening := format.value_opening.strip():
            mark = (yield from _until(value_opening)).strip(BLANKS)
        emit(f"{between}{json.dumps(key, ensure_ascii=False)}: ")
        between = ", "
        kinds = kinds_of(part_of(parameters, parameters, key), parameters)
        if is_text(kinds) or (mark and mark == format.text_mark):
            emit('"')
            yield from _read_text(format, lambda text: emit(_escaped(text)))
            emit('"')
        else:
            parts = list[str]()
            yield from _read_text(format, parts.append)
            emit(json_of("".join(parts), kinds, is_marked=bool(mark)))
    emit("{}" if between == "{" else "}")


def _read_text(format: ToolFormat, emit: Emit) -> Reader:
    """A value to its closing tag, a line break on either side of which belongs to the tags where
    the format sets values on lines of their own."""
    close = format.value_closing.strip()
    is_wrapped = format.value_closing.startswith("\n")
    closes = (close, f"\n{close}") if is_wrapped else (close,)
    held = yield
    if is_wrapped and held == "\n":
        held = ""
    if opening := format.text_opening:
        while held != opening and opening.startswith(held) and held not in closes:
            held += yield
        if held == opening:
            held, closes = "", (format.text_closing + close,)
    while held not in closes:
        while held and not any(mark.startswith(held) for mark in closes):
            emit(held[0])
            held = held[1:]
        if held in closes:
            break
        held += yield


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


# --- elements -----------------------------------------------------------------------------------


def _read_elements(format: ToolFormat, parameters: Schema, emit: Emit) -> Reader:
    yield from choose((yield from next_visible()), format.key_opening)
    end = yield from _read_inside(format, parameters, parameters, (yield), emit)
    if end != format.call_closing.removeprefix(format.value_closing).removesuffix(">"):
        raise Broken


def _read_inside(
    format: ToolFormat, schema: Schema, root: Schema, first: str, emit: Emit, depth: int = 0
) -> Characters:
    """Elements, whose first one has been opened up to *first*, and the tag that closes what they
    stand in. Returns its key."""
    if depth > MAX_DEPTH:
        raise Broken
    is_list = depth > 0 and "object" not in kinds_of(schema, root)
    between = ""
    while first != "/":
        key = yield from _until(format.key_closing, first)
        if not between:
            is_list = is_list and key == ITEM
            emit("[" if is_list else "{")
        emit(between if is_list else f"{between}{json.dumps(key, ensure_ascii=False)}: ")
        between = ", "
        yield from _read_element(format, part_of(schema, root, key), root, emit, depth + 1)
        yield from choose((yield from next_visible()), format.key_opening)
        first = yield
    emit(("]" if is_list else "}") if between else "{}")
    return (yield from _until(format.key_closing))


def _read_element(
    format: ToolFormat, schema: Schema, root: Schema, emit: Emit, depth: int
) -> Reader:
    """A value, and the tag that closes it."""
    kinds, mark = kinds_of(schema, root), format.key_opening
    is_string = is_text(kinds)
    parts = list[str]()
    held = yield
    if is_string:
        emit('"')
    while held != mark:
        while held and not mark.startswith(held):
            if is_string:
                emit(_escaped(held[0]))
            else:
                parts.append(held[0])
            held = held[1:]
        if held != mark:
            held += yield
    first = yield
    if first != "/":
        if is_string or "".join(parts).strip(BLANKS):
            raise Broken
        yield from _read_inside(format, schema, root, first, emit, depth)
        return
    yield from _until(format.key_closing)
    text = "".join(parts)
    if is_string:
        emit('"')
    elif not text.strip(BLANKS) and kinds and kinds <= {"array", "object", "null"}:
        emit("[]" if "array" in kinds else "{}")
    else:
        emit(json_of(text, kinds))


# --- literals -----------------------------------------------------------------------------------


def _read_literals(format: ToolFormat, parameters: Schema, emit: Emit) -> Reader:
    between = "{"
    character = yield from next_visible()
    while character != format.call_closing:
        key = (yield from _until(format.key_closing, character)).strip(BLANKS + "\"'")
        emit(f"{between}{json.dumps(key, ensure_ascii=False)}: ")
        between = ", "
        kinds = kinds_of(part_of(parameters, parameters, key), parameters)
        character = yield from _read_literal(format, kinds, emit)
        if character == ",":
            character = yield from next_visible()
        elif character != format.call_closing:
            raise Broken
    emit("{}" if between == "{" else "}")


def _read_literal(
    format: ToolFormat, kinds: frozenset[str], emit: Emit, *, depth: int = 0, first: str = ""
) -> Characters:
    """A value. Returns the first visible character behind it."""
    if depth > MAX_DEPTH:
        raise Broken
    first = first or (yield from next_visible())
    if any(quote.startswith(first) for quote in format.quotes):
        quote = yield from choose(first, *format.quotes)
        emit('"')
        yield from _read_quoted(quote, emit)
        emit('"')
        return (yield from next_visible())
    if first in "[{":
        emit(first)
        yield from _read_members(format, first, emit, depth)
        emit("]" if first == "[" else "}")
        return (yield from next_visible())
    text = first
    while (character := (yield)) not in _DELIMITERS:
        text += character
    text = text.strip(BLANKS)
    emit(_WORDS.get(text) or json_of(text, kinds))
    return character


def _read_members(format: ToolFormat, opening: str, emit: Emit, depth: int) -> Reader:
    end = "]" if opening == "[" else "}"
    character = ","
    between = ""
    while character == ",":
        first = yield from next_visible()
        if first == end:
            return
        emit(between)
        between = ", "
        if opening == "{":
            key = yield from _read_key(format, first)
            emit(f"{json.dumps(key, ensure_ascii=False)}: ")
            first = ""
        character = yield from _read_literal(
            format, frozenset(), emit, depth=depth + 1, first=first
        )
    if character != end:
        raise Broken


def _read_key(format: ToolFormat, first: str) -> Characters:
    if any(quote.startswith(first) for quote in format.quotes):
        quote = yield from choose(first, *format.quotes)
        parts = list[str]()
        yield from _read_quoted(quote, parts.append)
        if (yield from next_visible()) != ":":
            raise Broken
        return str(json.loads(f'"{"".join(parts)}"'))
    return (yield from _until(":", first)).strip(BLANKS)


def _read_quoted(quote: str, emit: Emit) -> Reader:
    """A text to its closing quote, as the inside of a JSON string."""
    has_escapes = len(quote) == 1
    held = ""
    while True:
        character = yield
        if has_escapes and character == "\\":
            emit((yield from _read_escape()))
            continue
        held += character
        if held == quote:
            return
        while held and not quote.startswith(held):
            emit(_escaped(held[0]))
            held = held[1:]


def _read_escape() -> Characters:
    letter = yield
    if letter == "u":
        digits = ""
        while len(digits) < 4:
            digits += yield
        if any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise Broken
        return f"\\u{digits}"
    if letter in _ESCAPES:
        return _escaped(_ESCAPES[letter])
    return _escaped(letter if letter in "\\'\"/" else f"\\{letter}")
