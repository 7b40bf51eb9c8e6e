"""Finds the part of a JSON Schema that cannot be enforced, when llguidance refuses the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from llguidance import LLMatcher

from spillover.runtime.structured_output.subschemas import Schema, walk

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


_DEFINITIONS = ("$defs", "definitions")
MAX_TRIALS = 64
"""Most parts of a schema that are tried one by one."""


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
