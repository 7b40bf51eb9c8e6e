"""Texts become JSON by the schema of the argument that they are the value of."""

from __future__ import annotations

import ast
import json
from typing import Any, TypeAlias
from urllib.parse import unquote

import msgspec

from spillover.runtime.tools.tool_format import ITEM

Schema: TypeAlias = dict[str, Any]

_MAX_REFERENCES = 8
_KINDS: dict[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number", "integer"),
    dict: ("object",),
    list: ("array",),
    type(None): ("null",),
}


def part_of(schema: Schema, root: Schema, key: str) -> Schema:
    """The schema of the member *key* of an object, or of the items of a list, that *schema*, a part
    of *root*, describes; empty: any."""
    schema = resolved(schema, root)
    for one in (schema, *(resolved(b, root) for b in (*any_of(schema), *_all_of(schema)))):
        properties, items = one.get("properties"), one.get("items")
        found = properties.get(key) if isinstance(properties, dict) else None
        if found is None and key == ITEM:
            found = items
        if isinstance(found, dict):
            return found
    return {}


def resolved(schema: Schema, root: Schema) -> Schema:
    """What *schema* refers to, if that is in the same document."""
    for _ in range(_MAX_REFERENCES):
        name = schema.get("$ref")
        if not isinstance(name, str) or not (name == "#" or name.startswith("#/")):
            break
        target: Any = root
        for step in name.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            return {}
        schema = target
    return schema


def kinds_of(schema: Schema, root: Schema) -> frozenset[str]:
    """JSON Schema's names of the types that *schema*, a part of *root*, allows; empty: any."""
    kinds, left, seen = set[str](), [schema], set[int]()
    while left:
        one = resolved(left.pop(), root)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if own := _own_kinds(one):
            kinds |= own
        elif inner := any_of(one) or (_all_of(one) if len(_all_of(one)) == 1 else []):
            left += inner
        else:
            return frozenset()
    return frozenset(kinds)


def followed(schema: Schema, root: Schema) -> Schema:
    """What *schema* refers to, also where that is all that an allOf holds."""
    for _ in range(_MAX_REFERENCES):
        schema = resolved(schema, root)
        if _own_kinds(schema) or len(_all_of(schema)) != 1:
            break
        schema = _all_of(schema)[0]
    return schema


def _own_kinds(schema: Schema) -> set[str]:
    kind = schema.get("type")
    if isinstance(kind, str | list):
        return {
            name for name in ([kind] if isinstance(kind, str) else kind) if isinstance(name, str)
        }
    if "const" in schema or isinstance(schema.get("enum"), list):
        return set(map(_kind, schema.get("enum") or [schema.get("const")]))
    return set()


def any_of(schema: Schema) -> list[Schema]:
    """The alternatives of *schema*."""
    return _schemas(schema.get("anyOf") or schema.get("oneOf"))


def _all_of(schema: Schema) -> list[Schema]:
    return _schemas(schema.get("allOf"))


def _schemas(value: Any) -> list[Schema]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def is_text(kinds: frozenset[str]) -> bool:
    return kinds == {"string"}


def json_of(text: str, kinds: frozenset[str], *, is_marked: bool = False) -> str:
    """*text* as JSON of one of *kinds*; a text that is none of them is a string. *is_marked*: it is
    JSON, even if that is of a string."""
    if not is_text(kinds):
        for decoded in _readings(text.strip()):
            if (is_marked or not isinstance(decoded, str)) and _fits(decoded, kinds):
                return json.dumps(decoded, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


def _readings(text: str) -> list[Any]:
    """*text* as JSON, or as Python writes the same value."""
    readings = []
    try:
        readings.append(msgspec.json.decode(text.encode("utf-8", "replace")))
    except (msgspec.DecodeError, RecursionError):
        try:
            value = ast.literal_eval(text)
            json.dumps(value, allow_nan=False)
            readings.append(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    return readings


def _fits(value: Any, kinds: frozenset[str]) -> bool:
    if kinds and "number" not in kinds and isinstance(value, float):
        return "integer" in kinds and value.is_integer()
    return not kinds or any(kind in kinds for kind in _KINDS.get(type(value), ()))


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), ("object",))[0]
