"""How large a response format or tool schema may be: it comes from outside, and is compiled beside
running answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgspec

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.structured_output.subschemas import Schema, mapped

Refuse: TypeAlias = Callable[[str], InvalidRequest]
"""Makes the error from its reason: ResponseFormatRefused, or one that names a tool's field."""

MAX_SCHEMA_BYTES = 1 << 18
MAX_SCHEMA_DEPTH = 48
"""llguidance's own reader gives up at about 60."""
MAX_SCHEMA_NODES = 20_000
"""Objects, arrays and values in a schema."""
MAX_GRAMMAR_CHARS = 1 << 17
MAX_PATTERN_CHARS = 8_192
MAX_LITERAL_BYTES = 16_384
"""One text that an answer must hold as it is: a mask takes longer the longer it is, 20 ms here."""
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*+)', re.DOTALL)
"""What stands behind a quote up to the next one, so that no character is looked at twice."""

BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_LARGEST = 10**300
_encode = msgspec.msgpack.Encoder().encode


def check_schema(schema: dict[str, Any], refuse: Refuse) -> None:
    """Raise what *refuse* makes when *schema* is larger or deeper than is worth compiling."""
    n_left = MAX_SCHEMA_NODES
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        n_left -= len(level)
        if n_left < 0:
            raise refuse(f"the schema has more than {MAX_SCHEMA_NODES} values: simplify it")
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            break
    else:
        raise refuse(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
    try:
        n_bytes = len(msgspec.json.encode(schema))
    except (OverflowError, ValueError):
        return  # a value that cannot be sent, which GenerationRequest.checked() names
    if n_bytes > MAX_SCHEMA_BYTES:
        raise refuse(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes: shorten it")


def with_bounds_that_travel(schema: dict[str, Any]) -> dict[str, Any]:
    """*schema*, in which bounds that no message can carry, because they have more than 64 bits,
    are the nearest floating-point numbers."""
    try:
        _encode(schema)
    except OverflowError:
        return cast(dict[str, Any], mapped(schema, _with_floats))
    except ValueError:
        pass  # GenerationRequest.checked() names it
    return schema


def _with_floats(schema: Schema) -> Schema:
    bounds = {
        name: float(max(-_LARGEST, min(value, _LARGEST)))
        for name in BOUNDS
        if type(value := schema.get(name)) is int and not -(2**63) <= value < 2**64
    }
    return {**schema, **bounds}


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def check_text(text: str, n_most: int, refuse: Refuse) -> None:
    """Raise what *refuse* makes when *text* is empty or longer than *n_most* characters."""
    if not text.strip():
        raise refuse("the grammar or pattern is empty")
    if len(text) > n_most:
        raise refuse(
            f"the grammar or pattern has {len(text)} characters, more than {n_most}: shorten it"
        )
    if any(len(found[1]) > MAX_LITERAL_BYTES for found in _LITERAL.finditer(text)):
        raise refuse(f"no text of more than {MAX_LITERAL_BYTES} bytes can be asked for: shorten it")
