"""Google's API takes names_with_underscores as well as camelCase, one value where a list is due,
and null for an empty list. Its own examples do so, and its clients mix the names."""

from __future__ import annotations

import codecs
import functools
import re
from typing import Any

import msgspec
from msgspec import inspect

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.text.surrogates import without_halves

_CAMEL = re.compile("(?<=[a-z])([A-Z])")
_SMALL_BYTES = 1 << 20
_MOST_COMMAS = 200_000
"""In a larger body: making so many values takes some 50 ms, in which no stream of this process goes
on. One with images is large and has few."""


def as_declared(body: bytes, kind: type[msgspec.Struct]) -> bytes:
    """*body* with the names and lists of *kind*'s fields as *kind* has them. Only those change:
    what is in schemas and arguments is the client's own. A body that cannot be read stays as it is.
    Raises WireError for one of too many values."""
    body = body.removeprefix(codecs.BOM_UTF8)
    names, no_lists = _variants(kind)
    found = names.search(body)
    if found is None and no_lists.search(body) is None:
        return body
    if len(body) > _SMALL_BYTES and body.count(b",") > _MOST_COMMAS:
        if found is None:  # who reads it names a list that is none
            return body
        name = found[1].decode()
        raise bad_request(f"{name}: so large a body must have its names in camelCase", name)
    try:
        try:
            value = msgspec.json.decode(body)
        except msgspec.DecodeError:
            value = msgspec.json.decode(without_halves(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode(_changed(value, inspect.type_info(kind)))


@functools.cache
def _variants(kind: type[msgspec.Struct]) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What shows that a body may be written in another way: a name with underscores, or the name of
    a list before what is none."""
    names: set[str] = set()
    lists: set[str] = set()
    kinds: list[inspect.Type] = [inspect.type_info(kind)]
    while kinds:
        match kinds.pop():
            case inspect.StructType(fields=fields):
                names |= {field.encode_name for field in fields}
                lists |= {field.encode_name for field in fields if _is_list(field.type)}
                kinds += [field.type for field in fields]
            case inspect.VarTupleType(item_type=item):
                kinds.append(item)
            case inspect.UnionType(types=types):
                kinds += types
    underscored = {_underscored(name) for name in names if _CAMEL.search(name)}
    return (
        re.compile(rb'"(%b)"\s*:' % "|".join(underscored).encode()),
        re.compile(rb'"(?:%b)"\s*:\s*["{n]' % "|".join(lists).encode()),
    )


def _is_list(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(map(_is_list, kind.types))
    return isinstance(kind, inspect.VarTupleType)


def _changed(value: Any, kind: inspect.Type) -> Any:
    match kind:
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            known = {_underscored(field.encode_name): field for field in fields}
            known |= {field.encode_name: field for field in fields}
            return {
                known[key].encode_name if key in known else key: _changed(inner, known[key].type)
                if key in known
                else inner
                for key, inner in value.items()
            }
        case inspect.VarTupleType(item_type=item):
            if value is None:
                return []
            values = value if isinstance(value, list) else [value]
            return [_changed(inner, item) for inner in values]
        case inspect.UnionType(types=types) if value is not None:
            structs = [each for each in types if isinstance(each, inspect.StructType)]
            tuples = [each for each in types if isinstance(each, inspect.VarTupleType)]
            for each in (*structs, *tuples):
                value = _changed(value, each)
    return value


def _underscored(name: str) -> str:
    return _CAMEL.sub(lambda found: f"_{found[1].lower()}", name)
