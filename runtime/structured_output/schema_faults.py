"""Says where an answer cannot be held to a JSON Schema, and takes such places out of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
from llguidance import LLMatcher

from spillover.runtime.structured_output.limits import MAX_LITERAL_BYTES
from spillover.runtime.structured_output.member_counts import (
    MAX_WAYS,
    counts_repeated_names,
    has_too_many_ways,
)
from spillover.runtime.structured_output.schema_rewrites import bound_out_of_reach
from spillover.runtime.structured_output.subschemas import Schema, mapped, walk

UNSUPPORTED = (
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
)
"""Keywords that no context-free grammar can express, or that llguidance does not support."""


COUNTS = ("minProperties", "maxProperties")
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_DEFINITIONS = ("$defs", "definitions")
MAX_TRIALS = 64
"""Most parts of a schema that are tried one by one."""


MAX_OPTIONAL = 600
"""Optional properties of one object: the parser follows each of them at once, in up to 30 ms."""


def unheld_place(schema: Schema) -> str:
    """The first place that llguidance accepts and cannot hold an answer to, and why; or empty."""
    for path, inner in walk(schema):
        if reason := _unheld(inner):
            return f"{path}/{reason}"
    return ""


def _unheld(schema: Schema) -> str:
    if keyword := _long_literal(schema):
        return f"{keyword}: no value of more than {MAX_LITERAL_BYTES} bytes can be asked for"
    if keyword := bound_out_of_reach(schema):
        return f"{keyword}: no number beyond 64-bit integers can be asked for"
    if counts_repeated_names(schema):
        return "minProperties: a name that comes twice would count twice: name the properties"
    if has_too_many_ways(schema):
        keyword = "minProperties" if "minProperties" in schema else "maxProperties"
        return (
            f"{keyword}: there are more than {MAX_WAYS} ways to reach it with optional properties: "
            "require some of them"
        )
    declared, required = schema.get("properties"), schema.get("required")
    if not isinstance(declared, dict) or len(declared) <= MAX_OPTIONAL:
        return ""
    named = required if isinstance(required, list) else ()
    n_optional = len(declared.keys() - {name for name in named if isinstance(name, str)})
    if n_optional <= MAX_OPTIONAL:
        return ""
    return (
        f"properties: {n_optional} properties are optional, more than the {MAX_OPTIONAL} that can "
        "be followed: require them or split the object"
    )


def _long_literal(schema: Schema) -> str | None:
    """The keyword of a value that is too long."""
    values = schema.get("enum")
    asked = {"enum": values if isinstance(values, list) else [], "const": [schema.get("const")]}
    for keyword, literals in asked.items():
        if any(len(msgspec.json.encode(value)) > MAX_LITERAL_BYTES for value in literals):
            return keyword
    return None


def freed(schema: Schema) -> Schema:
    """*schema* without what an answer cannot be held to: only those places are free. Nothing is
    asked of the answer that *schema* does not ask."""
    n_trials = itertools.count()
    held: Schema = mapped(schema, lambda inner: _freed_place(inner, n_trials))
    return held


def _freed_place(schema: Schema, n_trials: Iterator[int]) -> Schema:
    def is_bad(pattern: object) -> bool:
        part = {"type": "string", "pattern": pattern}
        return next(n_trials) >= MAX_TRIALS or bool(_error_of(part))

    target, kinds = schema.get("$ref"), schema.get("type", [])
    if isinstance(target, str) and not target.startswith("#"):
        schema = {name: value for name, value in schema.items() if name != "$ref"}
    if not all(kind in _TYPES for kind in (kinds if isinstance(kinds, list) else [kinds])):
        schema = {name: value for name, value in schema.items() if name != "type"}
    schema = {name: value for name, value in schema.items() if name not in UNSUPPORTED}
    if "pattern" in schema and is_bad(schema["pattern"]):
        del schema["pattern"]
    names = schema.get("patternProperties")
    if isinstance(names, dict) and any(is_bad(name) for name in names):
        # Members of these names are still allowed.
        del schema["patternProperties"]
        schema.pop("additionalProperties", None)
    if isinstance(branches := schema.get("oneOf"), list):
        if "anyOf" in schema:
            del schema["oneOf"]
        else:
            schema = {name: v for name, v in schema.items() if name != "oneOf"}
            schema["anyOf"] = branches
    if keyword := bound_out_of_reach(schema):
        del schema[keyword]
    while literal := _long_literal(schema):
        del schema[literal]
    if counts_repeated_names(schema):
        del schema["minProperties"]
    if has_too_many_ways(schema):
        schema = {name: v for name, v in schema.items() if name not in COUNTS}
    if _unheld(schema):
        schema = {"type": "object"}
    return schema


def fault_in(schema: Schema) -> str:
    """The place of the first fault, its keyword and the reason; empty when none is found."""
    for path, inner in walk(schema):
        keyword = next((keyword for keyword in UNSUPPORTED if keyword in inner), None)
        if keyword:
            return f"{path}/{keyword}: an answer cannot be held to this keyword"
    for place, part, message in itertools.islice(_doubtful(schema), MAX_TRIALS):
        if error := _error_of(part):
            return f"{place}: {message or error}"
    return ""


def _doubtful(schema: Schema) -> Iterator[tuple[str, Schema, str]]:
    """Places where a fault may be: each with a schema that has only it, and a message."""
    definitions: Schema = {name: schema[name] for name in _DEFINITIONS if name in schema}
    for path, inner in walk(schema):
        target = inner.get("$ref")
        if isinstance(target, str) and not target.startswith("#"):
            yield f"{path}/$ref", {"$ref": target}, "it refers to another document"
        if "pattern" in inner:
            yield f"{path}/pattern", {"type": "string", "pattern": inner["pattern"]}, ""
        if isinstance(names := inner.get("patternProperties"), dict):
            for name in names:
                part = {"type": "string", "pattern": name}
                yield f"{path}/patternProperties", part, ""
        if "oneOf" in inner:
            part = {**definitions, "oneOf": inner["oneOf"]}
            yield f"{path}/oneOf", part, "its branches may overlap: use anyOf"


def _error_of(schema: Schema) -> str:
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
    return " ".join(error.split())
