"""The fields of OpenAI, llama.cpp and vLLM that ask for a response format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.errors import ResponseFormatRefused
from spillover.runtime.request import Gbnf, JsonObject, JsonSchema, Lark, Regex, ResponseFormat

LARK_PREFIX = "%llguidance"
"""llama.cpp's mark of a grammar in llguidance's notation."""


class SchemaFormat(Struct, frozen=True, kw_only=True):
    name: str = "answer"
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormatBody(Struct, frozen=True, kw_only=True):
    """OpenAI's; with llama.cpp's *schema* of a json_object."""

    type: str
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None


class StructuredOutputs(Struct, frozen=True, kw_only=True):
    """vLLM's."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None


class AskedFormat(Struct, frozen=True):
    """A response format, and the field of the body that asks for it."""

    response_format: ResponseFormat
    field: str


class ResponseFormatFields(Struct, frozen=True, kw_only=True):
    """The fields of a body that ask for a response format; at most one may be given."""

    response_format: ResponseFormatBody | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: tuple[str, ...] | None = None
    guided_grammar: str | None = None

    def asked_format(self) -> AskedFormat | None:
        """The format that the body asks for; a 400 that names the field when it cannot be read."""
        found = list(self.asked_formats())
        if len(found) > 1:
            names = " and ".join(asked.field for asked in found)
            raise bad_request(f"{names} exclude each other: give one of them", found[1].field)
        return found[0] if found else None

    def asked_formats(self) -> Iterator[AskedFormat]:
        """All that ask for one; a dialect adds its own."""
        return _asked(self)


def with_field(error: Exception | None, field: str | None) -> Exception | None:
    """*error*; when it refuses the response format, a 400 with the client's *field*."""
    if not isinstance(error, ResponseFormatRefused) or field is None:
        return error
    return bad_request(f"{field}: {error}", field)


def _asked(body: ResponseFormatFields) -> Iterator[AskedFormat]:
    if body.response_format is not None and body.response_format.type != "text":
        field = "response_format"
        inner = f"{field}.json_schema.schema"
        yield openai_format(body.response_format, field, inner)
    if body.grammar:
        is_lark = body.grammar.startswith(LARK_PREFIX)
        grammar = Lark(grammar=body.grammar) if is_lark else Gbnf(grammar=body.grammar)
        yield AskedFormat(grammar, "grammar")
    if body.json_schema is not None:
        yield AskedFormat(JsonSchema(schema=body.json_schema), "json_schema")
    yield from _guided(
        body.guided_json, body.guided_regex, body.guided_choice, body.guided_grammar, "guided_"
    )
    if (vllm := body.structured_outputs) is not None:
        field = "structured_outputs."
        yield from _guided(vllm.json, vllm.regex, vllm.choice, vllm.grammar, field)
        if vllm.json_object:
            yield AskedFormat(JsonObject(), f"{field}json_object")


def openai_format(body: ResponseFormatBody, field: str, schema_field: str) -> AskedFormat:
    """OpenAI's format in *field*; the schema of its json_schema stands in *schema_field*."""
    if body.type == "json_object":
        wanted = JsonObject() if body.schema is None else JsonSchema(schema=body.schema)
        return AskedFormat(wanted, field)
    if body.type != "json_schema":
        field = f"{field}.type"
        raise bad_request(f"{field} must be text, json_object or json_schema", field)
    inner = body.json_schema or SchemaFormat(schema=body.schema)
    if inner.schema is None:
        raise bad_request(f"{schema_field} is missing", schema_field)
    is_strict = inner.strict is not False
    wanted = JsonSchema(schema=inner.schema, name=inner.name, strict=is_strict)
    return AskedFormat(wanted, schema_field)


def _guided(
    schema: dict[str, Any] | str | None,
    regex: str | None,
    texts: tuple[str, ...] | None,
    grammar: str | None,
    prefix: str,
) -> Iterator[AskedFormat]:
    if schema is not None:
        yield AskedFormat(_schema(schema, f"{prefix}json"), f"{prefix}json")
    if regex is not None:
        yield AskedFormat(Regex(pattern=regex), f"{prefix}regex")
    if texts is not None:
        yield AskedFormat(choice(texts, f"{prefix}choice"), f"{prefix}choice")
    if grammar is not None:
        is_gbnf = "::=" in grammar
        wanted = Gbnf(grammar=grammar) if is_gbnf else Lark(grammar=grammar)
        yield AskedFormat(wanted, f"{prefix}grammar")


def _schema(value: dict[str, Any] | str, name: str) -> JsonSchema:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise bad_request(f"{name} is not a JSON object: {error}", name) from error
    return JsonSchema(schema=value)


def choice(texts: tuple[str, ...], name: str) -> Lark:
    """One of *texts*, which the client's field *name* lists."""
    if not any(texts):
        raise bad_request(f"{name}: give at least one text", name)
    # As one terminal: thousands of alternatives are one automaton there, not as many rules.
    return Lark(grammar="start: TEXT\nTEXT: " + " | ".join(json.dumps(text) for text in texts))
