"""The fields of OpenAI, llama.cpp and vLLM that ask for a response format."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
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


class _Asked(Struct, frozen=True):
    """A response format, and the field that asks for it."""

    response_format: ResponseFormat
    field: str


def response_format_of(body: ResponseFormatFields) -> ResponseFormat | None:
    """The response format of a body; a 400 that names the field when it cannot be read."""
    asked = _asked(body)
    return asked[0].response_format if asked else None


def format_field(body: ResponseFormatFields) -> str | None:
    """The field of a body that asks for a response format."""
    asked = _asked(body)
    return asked[0].field if asked else None


def named(error: InvalidRequest, field: str | None) -> InvalidRequest | WireError:
    """*error*; when it refuses the response format, a 400 with the client's *field*."""
    if not isinstance(error, ResponseFormatRefused) or field is None:
        return error
    return bad_request(f"{field}: {error}", field)


def _asked(body: ResponseFormatFields) -> list[_Asked]:
    outputs = body.structured_outputs or StructuredOutputs()
    found = [
        _response_format(body.response_format),
        body.grammar and _Asked(_llama_grammar(body.grammar), "grammar"),
        body.json_schema is not None and _Asked(JsonSchema(schema=body.json_schema), "json_schema"),
        *_guided(body.guided_json, body.guided_regex, body.guided_choice, body.guided_grammar,
                 "guided_"),
        *_guided(outputs.json, outputs.regex, outputs.choice, outputs.grammar,
                 "structured_outputs."),
        outputs.json_object and _Asked(JsonObject(), "structured_outputs.json_object"),
    ]  # fmt: skip
    asked = [one for one in found if one]
    if len(asked) > 1:
        names = " and ".join(one.field for one in asked)
        raise bad_request(f"{names} exclude each other: give one of them", asked[1].field)
    return asked


def _response_format(value: ResponseFormatBody | None) -> _Asked | None:
    if value is None or value.type == "text":
        return None
    if value.type == "json_object":
        response_format = JsonObject() if value.schema is None else JsonSchema(schema=value.schema)
        return _Asked(response_format, "response_format")
    if value.type != "json_schema":
        raise bad_request(
            "response_format.type must be text, json_object or json_schema",
            "response_format.type",
        )
    inner = value.json_schema or SchemaFormat(schema=value.schema)
    if inner.schema is None:
        raise bad_request(
            "response_format.json_schema.schema is missing",
            "response_format.json_schema.schema",
        )
    response_format = JsonSchema(
        schema=inner.schema, name=inner.name, strict=inner.strict is not False
    )
    return _Asked(response_format, "response_format.json_schema.schema")


def _guided(
    schema: dict[str, Any] | str | None,
    regex: str | None,
    choice: tuple[str, ...] | None,
    grammar: str | None,
    prefix: str,
) -> list[_Asked | None]:
    return [
        None if schema is None else _Asked(_schema(schema, f"{prefix}json"), f"{prefix}json"),
        None if regex is None else _Asked(Regex(pattern=regex), f"{prefix}regex"),
        None if choice is None else _Asked(_choice(choice, f"{prefix}choice"), f"{prefix}choice"),
        None if grammar is None else _Asked(_either_grammar(grammar), f"{prefix}grammar"),
    ]


def _schema(value: dict[str, Any] | str, name: str) -> JsonSchema:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise bad_request(f"{name} is not a JSON object: {error}", name) from error
    return JsonSchema(schema=value)


def _choice(texts: tuple[str, ...], name: str) -> Lark:
    if not any(texts):
        raise bad_request(f"{name}: give at least one text", name)
    return Lark(grammar="start: " + " | ".join(json.dumps(text) for text in texts))


def _llama_grammar(text: str) -> ResponseFormat:
    return Lark(grammar=text) if text.startswith(LARK_PREFIX) else Gbnf(grammar=text)


def _either_grammar(text: str) -> ResponseFormat:
    return Gbnf(grammar=text) if "::=" in text else Lark(grammar=text)
