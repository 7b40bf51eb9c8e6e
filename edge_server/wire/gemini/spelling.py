"""Google's API takes names_with_underscores as well as camelCase, and its own clients mix them."""

from __future__ import annotations

import codecs
import functools
import re
from typing import Any

import msgspec
from msgspec import inspect

from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.request_body import without_halves

_UNDERSCORED = re.compile(rb'"([a-z]+_[a-z_]+)"\s*:')
_CAMEL = re.compile("(?<=[a-z])([A-Z])")
_SMALL_BYTES = 1 << 20
_MOST_COMMAS = 200_000
"""In a larger body: making so many values takes some 50 ms, in which no stream of this process goes
on. One with images is large and has few."""


def in_camel_case(body: bytes, kind: type[msgspec.Struct]) -> bytes:
    """*body* with the names of *kind*'s fields as *kind* has them. Only those change: the names in
    schemas and arguments are the client's own. A body that cannot be read stays as it is. Raises
    WireError for one of too many values."""
    body = body.removeprefix(codecs.BOM_UTF8)
    names = _underscored_names(kind)
    found = next((name[1] for name in _UNDERSCORED.finditer(body) if name[1] in names), None)
    if found is None:
        return body
    if len(body) > _SMALL_BYTES and body.count(b",") > _MOST_COMMAS:
        name = found.decode()
        raise bad_request(f"{name}: so large a body must have its names in camelCase", name)
    try:
        try:
            value = msgspec.json.decode(body)
        except msgspec.DecodeError:
            value = msgspec.json.decode(without_halves(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode(_renamed(value, inspect.type_info(kind)))


@functools.cache
def _underscored_names(kind: type[msgspec.Struct]) -> frozenset[bytes]:
    """All names that change."""
    names: set[str] = set()
    kinds: list[inspect.Type] = [inspect.type_info(kind)]
    while kinds:
        match kinds.pop():
            case inspect.StructType(fields=fields):
                names |= {field.encode_name for field in fields}
                kinds += [field.type for field in fields]
            case inspect.VarTupleType(item_type=item):
                kinds.append(item)
            case inspect.UnionType(types=types):
                kinds += types
    return frozenset(_underscored(name).encode() for name in names if _CAMEL.search(name))


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
