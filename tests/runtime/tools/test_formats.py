"""Every format of calls: what its writer writes, its parser reads and its grammar allows."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from spillover.runtime.request import Tool, ToolCall
from spillover.runtime.structured_output.call_grammar import calls_grammar
from spillover.runtime.tools.formats import FORMATS
from spillover.runtime.tools.parser import CallDelta, ToolParser
from spillover.runtime.tools.tool_format import ToolFormat
from spillover.runtime.tools.writer import written

PARAMETERS: dict[str, Any] = {
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}},
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "zip": {"type": "string", "minLength": 2, "maxLength": 9},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "days": {"type": "integer"},
        "loud": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "string"}},
        "at": {"$ref": "#/$defs/point"},
        "any": {},
    },
    "required": ["city", "days"],
}
WEATHER = Tool(name="get_weather", parameters=PARAMETERS)
ADD = Tool(name="math.add-2", parameters={"type": "object", "properties": {}})
OPEN = Tool(name="open", parameters={"type": "object"})
TOOLS = (WEATHER, ADD, OPEN)
ARGUMENTS: list[dict[str, Any]] = [
    {"city": "Brno", "zip": "123", "unit": "kelvin", "days": 3, "loud": True, "any": "x"},
    {"city": 'a "b"\n  c \\ <x> </', "days": -2, "list": ["1", "ž"], "at": {"x": 1.5}},
    {"city": "日本 עברית", "days": 0},
    {"city": "true", "zip": "0.5", "days": 1},
]
named = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)


def call(name: str, arguments: dict[str, Any]) -> ToolCall:
    return ToolCall(id="a1B2c3D4e", name=name, arguments=json.dumps(arguments, ensure_ascii=False))


def heard(format: ToolFormat, parts: list[str], *, streams: bool) -> tuple[str, list[Any]]:
    """The text, and name and arguments of each call."""
    parser = ToolParser(format, {tool.name: tool.parameters for tool in TOOLS}, streams=streams)
    text, calls = "", list[list[str]]()
    for piece in [p for part in parts for p in parser.feed(part)] + parser.flush():
        if not isinstance(piece, CallDelta):
            text += piece
        elif piece.id is not None:
            calls.append([piece.name or "", piece.arguments])
        else:
            calls[piece.index][1] += piece.arguments
    return text, [(name, json.loads(arguments)) for name, arguments in calls]


@named
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_what_is_written_is_read(
    format: ToolFormat, streams: bool, arguments: dict[str, Any]
) -> None:
    calls = (call(WEATHER.name, arguments), call(ADD.name, {}))
    text = written(format, calls)
    found = heard(format, ["Well. ", *text], streams=streams)
    assert found == ("Well.", [(c.name, json.loads(c.arguments)) for c in calls])


@named
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_the_grammar_allows_what_is_written(format: ToolFormat, arguments: dict[str, Any]) -> None:
    calls = (call(WEATHER.name, arguments), call(ADD.name, {}), call(OPEN.name, {}))
    text = written(format, calls)
    if not (format.repeats or format.is_list or format.is_sequence):
        text = written(format, calls[:1])
    assert allowed_of(format, TOOLS, text) == text


def allowed_of(format: ToolFormat, tools: tuple[Tool, ...], text: str) -> str:
    """As much of *text* as the grammar of its calls allows; all of it has to be a whole answer."""
    grammar = calls_grammar(format, tools, json.dumps, several=True, after_opening=False)
    tokenizer = LLTokenizer("byte")
    before = format.opening if format.may_be_bare else ""
    matcher = LLMatcher(tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.removeprefix(before).encode())
    n = matcher.try_consume_tokens(tokens)
    assert n < len(tokens) or matcher.is_accepting()
    return before + bytes(tokens[:n]).decode()


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
scalars = st.one_of(texts, st.integers(-(2**53), 2**53), st.booleans())
arguments_drawn = st.fixed_dictionaries(
    {"city": texts, "days": st.integers(-99, 99)},
    optional={"zip": texts, "list": st.lists(texts, max_size=3), "loud": st.booleans()},
)


@named
@given(data=st.data())
@settings(max_examples=25)
def test_any_cut_of_any_call_gives_the_same_call(format: ToolFormat, data: st.DataObject) -> None:
    arguments = data.draw(arguments_drawn)
    text = written(format, (call(WEATHER.name, arguments),))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    for streams in (False, True):
        assert heard(format, parts, streams=streams) == ("", [(WEATHER.name, arguments)])


@named
def test_a_held_call_that_is_cut_anywhere_is_no_text(format: ToolFormat) -> None:
    text = written(format, (call(WEATHER.name, ARGUMENTS[0]),))
    for end in range(len(format.opening), len(text)):
        parser = ToolParser(format, {WEATHER.name: PARAMETERS}, streams=True)
        pieces = parser.feed(text[:end]) + parser.flush()
        assert not any(isinstance(piece, str) for piece in pieces)
        begun = "".join(piece.arguments for piece in pieces if isinstance(piece, CallDelta))
        assert '{"city": "Brno"'.startswith(begun[:15])


@named
def test_texts_stay_texts(format: ToolFormat) -> None:
    """A number for a string parameter used to become a number."""
    text = written(format, (call(WEATHER.name, {"city": "12", "zip": "null", "days": 5}),))
    assert heard(format, [text], streams=True)[1][0][1] == {"city": "12", "zip": "null", "days": 5}


TREE = Tool(
    name="plant",
    parameters={
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "of": {"type": "string"},
                    "parts": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                    "age": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                },
                "required": ["of"],
                "additionalProperties": False,
            },
            "List[a/b]": {"type": "string"},
        },
        "type": "object",
        "properties": {
            "tree": {"$ref": "#/$defs/tree"},
            "notes": {},
            "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            "code": {"allOf": [{"$ref": "#/$defs/List[a~1b]"}], "description": "Of four digits."},
        },
        "additionalProperties": False,
    },
)


@named
@pytest.mark.parametrize(
    "arguments",
    [
        {"tree": {"of": "12", "parts": [{"of": "<b>", "age": 3}, {"of": "", "parts": []}]}},
        {"notes": [{"a": ["x", 1, True]}, {"b": {"c": "d]e"}}]},
        {"tree": {"of": "a", "parts": [{"of": "b", "parts": [{"of": "c"}]}]}, "notes": "d"},
        {"next": {"of": "a", "parts": [{"of": "b"}]}, "code": "0123"},
    ],
)
def test_nested_arguments_are_held_and_read(format: ToolFormat, arguments: dict[str, Any]) -> None:
    text = written(format, (call(TREE.name, arguments),))
    parser = ToolParser(format, {TREE.name: TREE.parameters}, streams=True)
    pieces = [p for c in text for p in parser.feed(c)] + parser.flush()
    begun = "".join(piece.arguments for piece in pieces if isinstance(piece, CallDelta))
    assert json.loads(begun) == arguments
    assert allowed_of(format, (TREE,), text) == text


def limited(properties: dict[str, Any]) -> Tool:
    return Tool(
        name="t",
        parameters={
            "type": "object",
            "properties": properties,
            "required": ["text"],
            "additionalProperties": False,
            "$defs": {"colour": {"enum": ["red", "1"]}, "digit": {"enum": [1, 2]}},
        },
    )


SHORT = limited(
    {
        "text": {"type": "string", "maxLength": 3},
        "unit": {"type": "string", "enum": ["a", "b c"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 30},
        "on": {"type": "boolean"},
        "colour": {"allOf": [{"$ref": "#/$defs/colour"}]},
        "digits": {"type": "array", "items": {"$ref": "#/$defs/digit"}, "minItems": 1},
        "at": {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/digit"}},
            "required": ["x"],
            "additionalProperties": False,
        },
        "maybe": {"anyOf": [{"$ref": "#/$defs/digit"}, {"type": "null"}]},
    }
)


@named
@given(seed=st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_whatever_the_grammar_lets_be_written_is_read(
    format: ToolFormat, seed: random.Random
) -> None:
    grammar = calls_grammar(format, (SHORT,), json.dumps, several=False, after_opening=False)
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, grammar)
    wrote = bytearray()
    while not (matcher.is_accepting() or matcher.is_stopped()):
        allowed = [token for token, bias in enumerate(matcher.compute_logit_bias()) if bias]
        token = seed.choice([token for token in allowed if token < 256])
        assert matcher.consume_token(token)
        wrote.append(token)
        assert len(wrote) < 4000
    text = wrote.decode()
    parser = ToolParser(format, {SHORT.name: SHORT.parameters}, streams=True, only_calls=True)
    pieces = parser.feed(text) + parser.flush()
    assert parser.n_calls == 1, text
    begun = "".join(piece.arguments for piece in pieces if isinstance(piece, CallDelta))
    jsonschema.validate(json.loads(begun), SHORT.parameters)


def test_many_references_to_large_definitions_make_no_endless_grammar() -> None:
    """Each brought all definitions with it: hundreds of megabytes."""
    members = {f"m{i}": {"type": "integer"} for i in range(400)}
    parameters = {
        "$defs": {"a": {"type": "object", "properties": members}},
        "type": "object",
        "properties": {f"p{i}": {"$ref": "#/$defs/a"} for i in range(400)},
    }
    tool = Tool(name="t", parameters=parameters)
    tagged = next(format for format in FORMATS if format.encoding == "tags")
    grammar = calls_grammar(tagged, (tool,), json.dumps, several=False, after_opening=True)
    assert len(grammar) < 2**21


@named
def test_arguments_that_are_a_reference_are_held(format: ToolFormat) -> None:
    """Between tags they were free."""
    schema = {
        "$ref": "#/definitions/args",
        "definitions": {
            "args": {**SHORT.parameters, "properties": {"text": {}, "n": {"const": 30}}}
        },
    }
    tool = Tool(name="t", parameters=schema)
    good, bad = (written(format, (call("t", {"text": "a", "n": n}),)) for n in (30, 31))
    assert allowed_of(format, (tool,), good) == good
    assert allowed_of(format, (tool,), bad) != bad


@named
def test_an_enum_behind_a_reference_is_held(format: ToolFormat) -> None:
    """Between tags it was free."""
    tool = limited({"text": {"$ref": "#/$defs/colour"}})
    good, bad = (written(format, (call("t", {"text": text}),)) for text in ("red", "blue"))
    assert allowed_of(format, (tool,), good) == good
    assert allowed_of(format, (tool,), bad) != bad


@pytest.mark.parametrize("format", [f for f in FORMATS if f.text_mark], ids=lambda f: f.name)
def test_a_text_that_is_marked_as_json_is_read_as_json(format: ToolFormat) -> None:
    """It kept its quotes."""
    tool = limited({"text": {"type": ["string", "integer"]}})
    mark = format.other_marks.partition("|")[0]
    text = written(format, (call("t", {"text": 5}),)).replace(">5<", '>"a"<')
    assert mark in text
    parser = ToolParser(format, {"t": tool.parameters}, streams=True)
    pieces = parser.feed(text) + parser.flush()
    begun = "".join(piece.arguments for piece in pieces if isinstance(piece, CallDelta))
    assert json.loads(begun) == {"text": "a"}
