"""Fifty schemas of many kinds, each small enough for a short answer."""

from __future__ import annotations

from typing import Any

WORD = {"type": "string", "maxLength": 6}
SMALL = {"type": "integer", "minimum": 0, "maximum": 99}

SAID = "Ruby the fox went home to her den. " * 6
"""At least 54 tokens, whatever the model makes them of, and at most 210."""


def thing(**properties: Any) -> dict[str, Any]:
    """An object with all of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def many(items: Any, most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


_NODE = {
    "type": "object",
    "properties": {"value": SMALL, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "integer": SMALL,
    "negative": {"type": "integer", "minimum": -20, "maximum": -3},
    "exclusive": {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 8},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "number": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
    "word": WORD,
    "lengths": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "open pattern": {"type": "string", "pattern": "^ab?c", "maxLength": 8},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "enum": {"enum": ["red", "green", "blue"]},
    "mixed enum": {"enum": [1, "two", None, True, {"a": [3]}]},
    "const": {"const": "yes"},
    "const object": {"const": {"a": 1, "b": [True, None]}},
    "unicode enum": {"enum": ["žluťoučký", "日本", "🦊"]},
    "quotes": {"enum": ['say "hi"', "back\\slash", "tab\t"]},
    "type list": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    "any of": {"anyOf": [SMALL, {"type": "boolean"}]},
    "one of": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "tagged": {
        "anyOf": [
            thing(kind={"const": "circle"}, radius=SMALL),
            thing(kind={"const": "square"}, side=SMALL),
        ]
    },
    "object": thing(name=WORD, age=SMALL),
    "deep object": thing(a=thing(b=thing(c=thing(d=SMALL)))),
    "optional": {
        "type": "object",
        "properties": {"a": SMALL, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "all optional": {
        "type": "object",
        "properties": {"a": SMALL, "b": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "no properties": {"type": "object", "additionalProperties": False},
    "strange names": thing(**{'a "b"': SMALL, "": SMALL, "ž": SMALL, "$ref": SMALL}),
    "free values": {
        "type": "object",
        "additionalProperties": SMALL,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "name patterns": {
        "type": "object",
        "patternProperties": {"^n_[a-c]$": SMALL},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "array": many(SMALL, 4),
    "least": many({"type": "boolean"}, 3, 2),
    "empty array": {"type": "array", "maxItems": 0},
    "tuple": {
        "type": "array",
        "prefixItems": [SMALL, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
    "open tuple": {
        "type": "array",
        "prefixItems": [{"type": "null"}],
        "items": {"type": "boolean"},
        "minItems": 2,
        "maxItems": 3,
    },
    "matrix": many(many(SMALL, 2, 2), 2, 2),
    "array of objects": many(thing(x=SMALL, y=SMALL), 2, 1),
    "array of enums": many({"enum": ["a", "b"]}, 3, 1),
    "reference": {"$defs": {"small": SMALL}, **thing(a={"$ref": "#/$defs/small"})},
    "definitions": {"definitions": {"w": WORD}, **thing(a={"$ref": "#/definitions/w"})},
    "list": {"$defs": {"node": {**_NODE}}, "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    "nullable object": {"anyOf": [thing(ok={"type": "boolean"}), {"type": "null"}]},
    "described": {"title": "T", "description": "d", "examples": [1], "default": 2, **SMALL},
    "booleans everywhere": thing(a=True, b={"type": "boolean"}) | {"properties": {
        "a": {"type": "boolean"}, "b": {"type": "boolean"}}},
    "person": thing(
        name=WORD,
        tags=many({"enum": ["kind", "brave", "small"]}, 2),
        home={"anyOf": [thing(city=WORD), {"type": "null"}]},
    ),
    "mail": thing(
        to={"type": "string", "pattern": "^[a-z]{1,5}@[a-z]{1,5}[.]org$"},
        urgent={"type": "boolean"},
    ),
}  # fmt: skip
