"""Rewrites JSON Schemas, with the same meaning, where llguidance lacks a keyword."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import quote

from llguidance import LLMatcher

from spillover.runtime.structured_output.member_counts import with_counts
from spillover.runtime.structured_output.one_of import with_exclusive_branches
from spillover.runtime.structured_output.subschemas import Schema, mapped

_IN_PLACE = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
"""What lets other schemas evaluate members and items."""

_URI_SIGNS = "#/%?:@!$&'()*+,;="

_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_LEAST, _GREATEST = 2048 - 2**63, 2**63 - 1024
"""llguidance reads bounds as doubles and writes them as 64-bit integers: the outermost it can."""


def with_known_keywords(schema: Schema) -> Schema:
    """*schema* reworded so that it uses as few keywords as possible that llguidance lacks."""
    changed: Schema = mapped(schema, lambda inner: _reworded(inner, schema))
    return changed


def _reworded(schema: Schema, root: Schema) -> Schema:
    # It may name any dialect; what the dialects say differently is known here.
    schema.pop("$schema", None)
    if isinstance(target := schema.get("$ref"), str):
        # Generators put names such as List[int] there as they are, which no URI may hold.
        schema["$ref"] = quote(target, safe=_URI_SIGNS)
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if isinstance(name := schema.get("format"), str) and not _knows_format(name):
        # By the specification an unknown format has no effect.
        del schema["format"]
    for unevaluated, additional in (
        ("unevaluatedProperties", "additionalProperties"),
        ("unevaluatedItems", "items"),
    ):
        if unevaluated in schema and not any(word in schema for word in _IN_PLACE):
            schema.setdefault(additional, schema.pop(unevaluated))
    if "propertyNames" in schema:
        schema = _with_property_names(schema)
    return with_counts(_with_bounds(with_exclusive_branches(schema, root)))


def _with_bounds(schema: Schema) -> Schema:
    """The bounds of JSON Schema 4 and OpenAPI 3.0, where exclusiveMinimum says whether minimum is
    one, become those of later versions. Bounds at the edges of 64 bits and beyond come into the
    range that llguidance can write as a regex: the outermost thousands of values are lost, and an
    answer still follows the schema."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if type(schema.get(exclusive)) is bool and schema.pop(exclusive) and bound in schema:
            schema[exclusive] = schema.pop(bound)
    types = schema.get("type", "number")
    is_whole = "number" not in (types if isinstance(types, list) else [types])
    bounds = {
        name: max(schema[name], _LEAST) if name in _LOWER else min(schema[name], _GREATEST)
        for name in (*_LOWER, *(() if is_whole else _UPPER))
        if type(schema.get(name)) in (int, float)
    }
    return {**schema, **bounds}


def bound_out_of_reach(schema: Schema) -> str:
    """The bound that lies beyond all that llguidance can write; empty if there is none."""
    for name in (*_LOWER, *_UPPER):
        value = schema.get(name)
        if isinstance(value, int | float) and (
            value > _GREATEST if name in _LOWER else value < _LEAST
        ):
            return name
    return ""


def _with_property_names(schema: Schema) -> Schema:
    """Names of an enum become properties, those of a pattern patternProperties."""
    match schema["propertyNames"]:
        case True | {"type": "string"} as names if names is True or len(names) == 1:
            return _without(schema, "propertyNames")
        case {"enum": [*names], **others} if _only_type(others) and all(
            isinstance(name, str) for name in names
        ):
            return _named(schema, names)
        case {"const": str() as name, **others} if _only_type(others):
            return _named(schema, [name])
        case {"pattern": str() as pattern, **others} if _only_type(others):
            return _patterned(schema, pattern)
    return schema


def _only_type(others: dict[Any, Any]) -> bool:
    return others in ({}, {"type": "string"})


def _without(schema: Schema, *keywords: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in keywords}


def _named(schema: Schema, names: list[str]) -> Schema:
    declared = schema.get("properties", {})
    if "patternProperties" in schema or not isinstance(declared, dict):
        return schema
    any_other = schema.get("additionalProperties", True)
    properties = {name: declared.get(name, any_other) for name in names}
    return {
        **_without(schema, "propertyNames"),
        "properties": properties,
        "additionalProperties": False,
    }


def _patterned(schema: Schema, pattern: str) -> Schema:
    # Not checked: whether declared names match. A pattern from outside may take forever.
    if "patternProperties" in schema or schema.get("properties"):
        return schema
    any_other = schema.get("additionalProperties", True)
    return {
        **_without(schema, "propertyNames"),
        "patternProperties": {pattern: any_other},
        "additionalProperties": False,
    }


@functools.lru_cache(maxsize=256)
def _knows_format(name: str) -> bool:
    schema = {"type": "string", "format": name}
    return not LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
