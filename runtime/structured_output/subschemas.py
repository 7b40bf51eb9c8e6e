"""The schemas inside a JSON Schema, wherever its keywords put them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

_ONE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def walk(schema: Any, path: str = "#") -> Iterator[tuple[str, Schema]]:
    """*schema* and all schemas inside, with their JSON pointers; those that are only true or
    false are left out."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword in _ONE:
        yield from walk(schema.get(keyword), f"{path}/{keyword}")
    for keyword in _MANY:
        inner = schema.get(keyword)
        for index, value in enumerate(inner if isinstance(inner, list) else ()):
            yield from walk(value, f"{path}/{keyword}/{index}")
    for keyword in _NAMED:
        inner = schema.get(keyword)
        for name, value in inner.items() if isinstance(inner, dict) else ():
            yield from walk(value, f"{path}/{keyword}/{_escaped(name)}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def mapped(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """A copy in which *change* was made to every schema, the inner ones first."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    for keyword in _ONE:
        if isinstance(copy.get(keyword), dict):
            copy[keyword] = mapped(copy[keyword], change)
    for keyword in _MANY:
        if isinstance(copy.get(keyword), list):
            copy[keyword] = [mapped(value, change) for value in copy[keyword]]
    for keyword in _NAMED:
        if isinstance(copy.get(keyword), dict):
            copy[keyword] = {name: mapped(value, change) for name, value in copy[keyword].items()}
    return change(copy)
