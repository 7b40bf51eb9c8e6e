"""Google's API takes names_with_underscores as well as camelCase, and its own clients mix them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

_UNDERSCORED = re.compile(rb'"[a-z]+_[a-z_]+"\s*:')
_CAMEL = re.compile("(?<=[a-z])([A-Z])")
_MOST_BYTES = 1 << 20
"""Reading a body as objects takes time in which no stream of this process goes on."""


def in_camel_case(body: bytes, kind: type[msgspec.Struct]) -> bytes:
    """*body* with the names of *kind*'s fields as *kind* has them. Only those change: the names in
    schemas and arguments are the client's own. A body that cannot be read stays as it is."""
    if len(body) > _MOST_BYTES or not _UNDERSCORED.search(body):
        return body
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode(_renamed(value, inspect.type_info(kind)))


def _renamed(value: Any, kind: inspect.Type) -> Any:
    match kind:
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            known = {_underscored(field.encode_name): field for field in fields}
            known |= {field.encode_name: field for field in fields}
            return {
                known[key].encode_name if key in known else key: _renamed(inner, known[key].type)
                if key in known
                else inner
                for key, inner in value.items()
            }
        case inspect.VarTupleType(item_type=item) if isinstance(value, list):
            return [_renamed(inner, item) for inner in value]
        case inspect.UnionType(types=types):
            structs = [each for each in types if isinstance(each, inspect.StructType)]
            tuples = [each for each in types if isinstance(each, inspect.VarTupleType)]
            for each in (*structs, *tuples):
                value = _renamed(value, each)
    return value


def _underscored(name: str) -> str:
    return _CAMEL.sub(lambda found: f"_{found[1].lower()}", name)
