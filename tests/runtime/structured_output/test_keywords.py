"""JSON Schema keyword by keyword: what a grammar lets through follows the schema, and what no
grammar can say is refused by name and place."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from spillover.runtime.backend import Constraint
from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.request import Gbnf, JsonSchema, Lark
from spillover.runtime.structured_output.factory import ConstraintFactory
from spillover.runtime.structured_output.grammar import clean_schema
from spillover.runtime.structured_output.limits import check_text
from spillover.runtime.structured_output.schema_faults import freed
from tests.runtime.structured_output.schemas import SMALL, WORD, many, thing

MAX_TOKENS = 300
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")

CHECKED = ("ipv4", "ipv6", "uuid")
"""Formats of which the validator and the grammar think alike: of dates it lacks the year 0."""


def wandered(factory: ConstraintFactory, schema: Any, draw: random.Random) -> str | None:
    """An answer that the grammar of *schema* allows, of tokens drawn at random; None when it
    does not come to an end."""
    constraint = factory.from_start(JsonSchema(schema=schema))()
    vocabulary = factory.vocabulary
    ends = [t for t, piece in enumerate(vocabulary.pieces) if piece and piece in b'"}],0']
    written = b""
    for _ in range(MAX_TOKENS):
        if constraint.is_complete:
            break
        allowed = _allowed(constraint, vocabulary.n_tokens)
        closing = [t for t in ends if t in allowed]
        may_end = bool(allowed & vocabulary.eog_tokens)
        if may_end and draw.random() < 0.7:
            break
        pool = closing if closing and draw.random() < 0.4 else sorted(allowed)
        token = draw.choice(pool)
        if token in vocabulary.eog_tokens:
            break
        constraint.accept(token)
        written += vocabulary.pieces[token]
    else:
        return None
    return written.decode()


def _allowed(constraint: Constraint, n: int) -> set[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), count=n, bitorder="little")
    return set(np.flatnonzero(bits).tolist())


TREE = {
    "type": "object",
    "properties": {"v": SMALL, "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    "required": ["v", "kids"],
    "additionalProperties": False,
}
HELD: dict[str, Any] = {
    "$ref and $defs": {"$defs": {"a": SMALL}, "$ref": "#/$defs/a"},
    "$ref to any name": {"$defs": {"Map«a, b[c/d~e]»": SMALL},
                         "$ref": "#/$defs/Map«a, b[c~1d~0e]»"},
    "definitions": {"definitions": {"a": SMALL}, "type": "array", "maxItems": 2,
                    "items": {"$ref": "#/definitions/a"}},
    "recursion": TREE,
    "oneOf": {"oneOf": [SMALL, {"type": "boolean"}, thing(kind={"const": "a"})]},
    "oneOf by a member": {"oneOf": [thing(k={"const": "a"}, x=SMALL), thing(k={"const": "b"})]},
    "oneOf by a member that is not required": {"oneOf": [
        {"type": "object", "properties": {"k": {"const": "a"}, "x": SMALL}},
        {"properties": {"k": {"enum": ["b", "c"]}}, "additionalProperties": SMALL}]},
    "oneOf by a member of references": {
        "$defs": {"a~b": {"type": "object", "properties": {"k": {"const": 1}, "x": SMALL},
                          "required": ["x"]},
                  "c": {"$ref": "#/$defs/d"},
                  "d": {"type": "object", "properties": {"k": {"const": True}}}},
        "oneOf": [{"$ref": "#/$defs/a~0b"}, {"$ref": "#/$defs/c"}],
        "discriminator": {"propertyName": "k"}},
    "oneOf by what is required": {**thing(a=SMALL, b=SMALL, c=SMALL), "required": ["c"],
                                  "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "anyOf": {"anyOf": [{"type": "integer", "minimum": 90, "maximum": 120}, SMALL]},
    "allOf": {"allOf": [thing(a=SMALL), {"properties": {"a": {"minimum": 50}}}]},
    "enum": {"enum": [1, "a", None, {"b": [1]}, 1.5, "ü\u2028\"\\"]},
    "const": {"const": {"a": "ü☃𝄞"}},
    "pattern": {"type": "string", "pattern": "^[a-c]+-[0-9]{2,3}$"},
    "unanchored pattern": {"type": "string", "pattern": "ab", "maxLength": 6},
    "unicode pattern": {"type": "string", "pattern": "^[äöü]{1,3}$"},
    "minLength": {"type": "string", "minLength": 2, "maxLength": 3},
    **{f"format {name}": {"type": "string", "format": name} for name in FORMATS},
    "unknown format": {"type": "string", "format": "of-my-own", "maxLength": 3},
    "bounds": {"type": "integer", "minimum": -17, "exclusiveMaximum": 205},
    "number bounds": {"type": "number", "exclusiveMinimum": -1.5, "maximum": 3.25},
    "all of int64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "all of uint64": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    "outside of int64": {"type": "integer", "exclusiveMinimum": -(2**63) - 1.0,
                         "exclusiveMaximum": 1e300},
    "all doubles": {"type": "number", "minimum": -1.7976931348623157e308,
                    "maximum": 1.7976931348623157e308},
    "numbers of int64": {"minimum": -(2**63), "maximum": 2**63 - 1, "type": ["number", "null"]},
    "far beyond 64 bits": {"type": "integer", "minimum": -1e30, "maximum": 1e25},
    "multipleOf": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 100},
    "required": {"type": "object", "properties": {"a": SMALL, "b": WORD, "c": WORD},
                 "required": ["c"], "additionalProperties": False},
    "required and not described": {"type": "object", "required": ["x"], "maxProperties": 1,
                                   "additionalProperties": SMALL},
    "additionalProperties": {"type": "object", "properties": {"ab": {"type": "boolean"}},
                             "additionalProperties": SMALL},
    "patternProperties": {"type": "object", "patternProperties": {"^x[a-d]$": SMALL},
                          "additionalProperties": False},
    "minProperties": {"type": "object", "additionalProperties": SMALL, "minProperties": 1,
                      "maxProperties": 2},
    "propertyNames of an enum": {"type": "object", "propertyNames": {"enum": ["a", "b"]},
                                 "additionalProperties": SMALL},
    "propertyNames of a pattern": {"type": "object", "propertyNames": {"pattern": "^[ab]{1,2}$"},
                                   "additionalProperties": SMALL},
    "propertyNames with properties": {
        "type": "object", "properties": {"a": WORD, "z": WORD},
        "propertyNames": {"type": "string", "enum": ["a", "b"]}},
    "propertyNames of any kind": {"type": "object", "propertyNames": {"type": "string"},
                                  "additionalProperties": SMALL},
    "unevaluatedProperties": {"type": "object", "properties": {"a": SMALL},
                              "unevaluatedProperties": False},
    "minProperties that all members make up": {
        "type": "object", "properties": {"a": SMALL, "b": SMALL}, "minProperties": 2,
        "additionalProperties": False},
    "minProperties that required members make up": {
        "type": "object", "properties": {"a": SMALL, "b": SMALL, "c": SMALL},
        "required": ["a", "c"], "minProperties": 2, "additionalProperties": SMALL},
    "one more than the required members": {
        "type": "object", "properties": {"a": SMALL}, "required": ["a"], "minProperties": 2,
        "maxProperties": 4, "additionalProperties": SMALL},
    "maxProperties that says nothing": {
        "type": "object", "properties": {"a": SMALL, "b": SMALL}, "maxProperties": 2,
        "additionalProperties": False},
    "minItems": many(SMALL, 3, 2),
    "prefixItems": {"type": "array", "prefixItems": [SMALL, WORD], "items": False},
    "prefixItems and items": {"type": "array", "prefixItems": [WORD], "items": SMALL,
                              "minItems": 1, "maxItems": 3},
    "unevaluatedItems": {"type": "array", "prefixItems": [SMALL], "unevaluatedItems": False},
    "uniqueItems that is false": {**many(SMALL, 2), "uniqueItems": False},
    "several types": {"type": ["integer", "null"], "minimum": 3, "maximum": 5},
    "members that are true": {"type": "object", "properties": {"a": {"const": 1}, "b": False},
                              "additionalProperties": False},
    "unicode names": thing(**{"näme ☃\n\"": SMALL}),
    "another dialect": {"$schema": "https://example.org/dialect", **SMALL},
    "annotations": {"title": "t", "description": "d", "default": 1, "examples": [1],
                    "readOnly": True, "$comment": "x", "x-own": 1, **SMALL},
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_what_a_grammar_lets_through_follows_the_schema(
    factory: ConstraintFactory, name: str
) -> None:
    schema = HELD[name]
    draw = random.Random(name)
    n_ended = 0
    for _ in range(12):
        text = wandered(factory, schema, draw)
        if text is not None:
            n_ended += 1
            checker = jsonschema.FormatChecker(CHECKED)
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(
                json.loads(text)
            )
    assert n_ended


def test_the_bounds_of_openapi_are_held(factory: ConstraintFactory) -> None:
    """There exclusiveMinimum says whether minimum is one; it was ignored."""
    schema = {"type": "integer", "minimum": 5, "exclusiveMinimum": True}
    schema |= {"maximum": 7, "exclusiveMaximum": False}
    draw = random.Random(1)
    texts = {wandered(factory, schema, draw) for _ in range(12)}
    assert texts - {None} == {"6", "7"}


def counted(n: int, *required: str, others: Any = False, **counts: int) -> Any:
    properties = {f"p{i}": SMALL for i in range(n)}
    return {"type": "object", "properties": properties, "required": [*required],
            "additionalProperties": others, **counts}  # fmt: skip


COUNTED = {
    "at least one": counted(3, minProperties=1),
    "at least two": counted(4, minProperties=2),
    "at most one": counted(3, maxProperties=1),
    "at most two": counted(4, maxProperties=2),
    "exactly one": counted(3, minProperties=1, maxProperties=1),
    "two or three": counted(5, minProperties=2, maxProperties=3),
    "one beside what is required": counted(4, "p1", minProperties=2),
    "one or two beside it": counted(4, "p3", minProperties=2, maxProperties=3),
    "nothing beside it": counted(3, "p0", maxProperties=1),
    "one more than is described": counted(2, others=SMALL, minProperties=3),
    "at least one, open": counted(3, others=SMALL, minProperties=1),
    "at least two, open": counted(3, others=SMALL, minProperties=2),
    "at most two, open": counted(3, others=SMALL, maxProperties=2),
    "two beside what is required, open": counted(3, "p2", others=SMALL, minProperties=3),
    "one or two, open": counted(2, others=SMALL, minProperties=1, maxProperties=2),
    "with required alternatives": {
        **counted(4, maxProperties=2), "anyOf": [{"required": ["p0"]}, {"required": ["p2"]}]},
    "with alternatives of all": {
        **counted(3, minProperties=2),
        "allOf": [{"anyOf": [{"required": ["p1"]}, {"required": ["p2"]}]}]},
}  # fmt: skip


def written_members(names: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'"{name}": 1' for name in names) + "}"


def is_let_through(factory: ConstraintFactory, schema: Any, text: str) -> bool:
    constraint = factory.from_start(JsonSchema(schema=schema))()
    tokens = factory.vocabulary.tokens_of(text)
    for token in tokens:
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.is_complete or constraint.allows(next(iter(factory.vocabulary.eog_tokens)))


@pytest.mark.parametrize("name", COUNTED)
def test_counts_of_optional_members_are_those_of_the_parsed_object(
    factory: ConstraintFactory, name: str
) -> None:
    """Most of them were a 400."""
    schema = COUNTED[name]
    validator = jsonschema.Draft202012Validator(schema)
    described = tuple(schema["properties"])
    n_valid = 0
    for n in range(len(described) + 1):
        for named in itertools.combinations(described, n):
            for extra in ((), ("x",), ("x", "x"), ("x", "y")):
                text = written_members(named + extra)
                is_valid = validator.is_valid(json.loads(text))
                passes = is_let_through(factory, schema, text)
                assert is_valid or not passes, text
                if len(extra) < 2 and is_valid:  # of two others, the names might be the same
                    assert passes, text
                    n_valid += 1
    assert n_valid


def test_counts_that_can_be_reached_in_very_many_ways_are_refused(
    factory: ConstraintFactory,
) -> None:
    for schema in (
        counted(12, minProperties=6),
        counted(400, minProperties=200, maxProperties=300),
        counted(9, others=True, maxProperties=4),
        counted(4_000, others=True, minProperties=1, maxProperties=2_000),  # it took a minute
    ):
        with pytest.raises(InvalidRequest, match="there are more than 64 ways to reach it"):
            factory.from_start(JsonSchema(schema=schema))
    assert freed(counted(12, minProperties=6)) == counted(12)


def test_no_branch_of_one_of_is_lost(factory: ConstraintFactory) -> None:
    tagged = HELD["oneOf by a member of references"]
    assert is_let_through(factory, tagged, '{"k": 1, "x": 1}')
    assert is_let_through(factory, tagged, '{"k": true}')
    assert not is_let_through(factory, tagged, '{"k": 1}')
    required = HELD["oneOf by what is required"]
    passing = [
        text
        for n in (1, 2, 3)
        for names in itertools.combinations("abc", n)
        if is_let_through(factory, required, text := written_members(names))
    ]
    assert passing == ['{"a": 1, "c": 1}', '{"b": 1, "c": 1}']


REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"type": "object", "properties": {"a/b": {"not": SMALL}}}, "#/properties/a~1b/not"),
    "if": ({"if": SMALL, "then": {"minimum": 3}}, "#/if"),
    "contains": ({"items": {"type": "array", "contains": SMALL}}, "#/items/contains"),
    "uniqueItems": ({"anyOf": [SMALL, {"type": "array", "uniqueItems": True}]},
                    "#/anyOf/1/uniqueItems"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
    "propertyNames": ({"type": "object", "propertyNames": {"maxLength": 3}}, "#/propertyNames"),
    "minProperties of free names": (
        {"type": "array", "items": {"type": "object", "additionalProperties": SMALL,
                                    "minProperties": 2}},
        "#/items/minProperties"),
    "minimum": (thing(a={"type": "integer", "minimum": 1e20}), "#/properties/a/minimum"),
    "exclusiveMaximum": ({"exclusiveMaximum": -1e20}, "#/exclusiveMaximum"),
    "optional properties": (
        {"type": "object", "properties": {"o": {
            "type": "object", "properties": {f"p{i}": {} for i in range(700)}}}},
        "#/properties/o/properties"),
    "oneOf": ({"properties": {"n": {"oneOf": [SMALL, {"type": "number"}]}}},
              "#/properties/n/oneOf"),
    "pattern": ({"$defs": {"p": {"type": "string", "pattern": "(?=a)b"}}, "$ref": "#/$defs/p"},
                "#/$defs/p/pattern"),
    "back reference": ({"prefixItems": [{"pattern": r"(a)\1"}]}, "#/prefixItems/0/pattern"),
    "patternProperties": ({"patternProperties": {"(": SMALL}}, "#/patternProperties"),
    "$ref": ({"items": {"$ref": "https://example.org/s.json"}}, "#/items/$ref"),
    "unevaluatedProperties": ({"allOf": [thing(a=SMALL)], "unevaluatedProperties": False},
                              "#/unevaluatedProperties"),
    "$dynamicRef": ({"$dynamicRef": "#x"}, "#/$dynamicRef"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_grammar_can_say_is_refused_by_keyword_and_place(
    factory: ConstraintFactory, name: str
) -> None:
    schema, place = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        factory.from_start(JsonSchema(schema=schema))
    assert str(caught.value).startswith(f"{place}: ")
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "keyword",
    ["properties", "patternProperties", "items", "allOf", "$defs", "propertyNames", "format",
     "oneOf", "pattern", "$ref"],
)  # fmt: skip
@pytest.mark.parametrize("value", [5, "x", ["y"], None, {"a": 5}, True])
def test_an_invalid_schema_is_refused_or_followed_but_never_a_crash(
    factory: ConstraintFactory, keyword: str, value: Any
) -> None:
    extras: list[dict[str, Any]] = [{}, {"propertyNames": {"enum": ["a"]}}, {"not": {}}]
    for extra in extras:
        with contextlib.suppress(InvalidRequest):
            factory.from_start(JsonSchema(schema={"type": "object", keyword: value, **extra}))


def test_a_schema_with_many_doubtful_parts_is_refused_soon(factory: ConstraintFactory) -> None:
    branches = [{"oneOf": [SMALL, {"type": "number"}]}] * 3_000
    with pytest.raises(InvalidRequest):
        factory.from_start(
            JsonSchema(schema={"$ref": "x", "anyOf": [thing(a=b) for b in branches]})
        )


def test_very_many_branches_are_not_spelled_out() -> None:
    """Each forbade the members of all others, which took gigabytes."""
    schema = {"oneOf": [{"required": [f"p{i}"]} for i in range(6_000)]}
    assert clean_schema(schema, ResponseFormatRefused) == schema


def test_a_long_text_is_refused_by_its_place(factory: ConstraintFactory) -> None:
    """Each token of it took a third of a second, in which no answer went on."""
    for schema, place in (
        (thing(a={"enum": ["short", "x" * 20_000]}), "#/properties/a/enum"),
        ({"const": ["x" * 20_000]}, "#/const"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            factory.from_start(JsonSchema(schema=schema))
        assert str(caught.value).startswith(f"{place}: no value of more than 16384 bytes")
    with pytest.raises(InvalidRequest, match="no text of more than 16384 bytes"):
        factory.from_start(Lark(grammar=f'start: "{"x" * 20_000}"'))
    long = {"type": "string", "enum": ["x" * 20_000]}
    assert freed(thing(a=long)) == thing(a={"type": "string"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99_999_989},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "integer", "multipleOf": 9_973},
                                                          {"multipleOf": 9_967}]}}},
    ],
)  # fmt: skip
def test_multiples_of_a_large_number_are_refused_in_time(
    factory: ConstraintFactory, schema: dict[str, Any]
) -> None:
    """As many states were made as the number says: nobody's format was compiled any more."""
    with pytest.raises(InvalidRequest, match="too much time or memory"):
        factory.from_start(JsonSchema(schema=schema))


def test_only_the_object_with_too_many_optional_members_is_freed() -> None:
    large = {"type": "object", "properties": {f"p{i}": {} for i in range(700)}}
    assert freed(thing(a=SMALL, b=large)) == thing(a=SMALL, b={"type": "object"})


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (r'root ::= "caf\u00e9" "\U0001F98A"', "café🦊"),
        (r'root ::= "\u00e9abc"', "éabc"),
        (r'root ::= [\u00e0-\u00ff] "\u0022" [^\u005d]', 'é"a'),
        (r'root ::= "\\u00e9"', r"\u00e9"),
    ],
)
def test_characters_by_their_numbers_are_those_of_gbnf(
    factory: ConstraintFactory, grammar: str, text: str
) -> None:
    """They were a 400, or other characters."""
    constraint = factory.from_start(Gbnf(grammar=grammar))()
    for token in factory.vocabulary.tokens_of(text):
        assert constraint.allows(token)
        constraint.accept(token)
    assert constraint.is_complete


@pytest.mark.parametrize("grammar", ['rot ::= "a"', "root ::= nothing"])
def test_a_rule_that_gbnf_lacks_is_named(factory: ConstraintFactory, grammar: str) -> None:
    """The answer was that the response format cannot be compiled."""
    with pytest.raises(InvalidRequest, match=r"not valid GBNF: .*('root'|'nothing')"):
        factory.from_start(Gbnf(grammar=grammar))


def test_a_grammar_of_many_quotes_is_read_once() -> None:
    """It was read again from each of them: a grammar of the largest size for ten seconds, in which
    no answer went on."""
    text = ('"' + '\\"' * 8_000 + '" ') * 250
    check_text(text, len(text), ResponseFormatRefused)
