"""Tool calls out of texts that are cut in any way."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.tools.formats import HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, MISTRAL_IDS
from spillover.runtime.tools.parser import CallDelta, ToolParser
from spillover.runtime.tools.tool_format import ToolFormat

NAMES: dict[str, dict[str, Any]] = {"weather": {}, "add": {}}
FORMATS = {f.name: f for f in (HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, MISTRAL_IDS)}


@dataclass
class Heard:
    """What a parser has said in all; calls as (name, arguments)."""

    text: str = ""
    calls: list[list[str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


def heard(parts: list[str], format: ToolFormat, *, streams: bool = False) -> Heard:
    parser = ToolParser(format, NAMES, streams=streams)
    result = Heard()
    for piece in [p for part in parts for p in parser.feed(part)] + parser.flush():
        if isinstance(piece, str):
            result.text += piece
        elif piece.id is not None:
            assert piece.index == len(result.calls)
            result.ids.append(piece.id)
            result.calls.append([piece.name or "", piece.arguments])
        else:
            result.calls[piece.index][1] += piece.arguments
    return result


ARGUMENTS = '{"city": "Brno \\"}{ </tool_call>", "days": [1, {"a": null}]}'
GOOD: list[tuple[str, str, str, list[list[str]]]] = [
    ("hermes", f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>', "",
     [["weather", ARGUMENTS]]),
    ("hermes", 'Let me see.\n<tool_call>{"name":"add","arguments":{}}</tool_call>\n'
     '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call> Done.', "Let me see. Done.",
     [["add", "{}"], ["add", '{"a": 1}']]),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', "", [["add", "{}"]]),
    ("llama", '{"name": "add", "parameters": {"a": 1}}', "", [["add", '{"a": 1}']]),
    ("llama", '<|python_tag|>{"name": "add", "parameters": {"a": 1}}; '
     '{"name": "weather", "parameters": {}}', "", [["add", '{"a": 1}'], ["weather", "{}"]]),
    ("llama", '{"type": "function", "name": "add", "parameters": "{\\"a\\": 1}"}', "",
     [["add", '{"a": 1}']]),
    ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, '
     '{"name": "weather", "arguments": {}, "id": "x"}]', "",
     [["add", '{"a": 1}'], ["weather", "{}"]]),
    ("mistral-args", 'Well. [TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]weather{}', "Well.",
     [["add", '{"a": 1}'], ["weather", "{}"]]),
    ("mistral-ids", '[TOOL_CALLS]add[CALL_ID]a1B2c3D4e[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS]{}', "",
     [["add", '{"a": 1}'], ["add", "{}"]]),
    ("hermes", '<tool_call>\n{"name": "add", "arguments": {"é\\u00e9\\ud83d\\ude00": "𝄞 \\"}"}}\n'
     "</tool_call>", "", [["add", '{"é\\u00e9\\ud83d\\ude00": "𝄞 \\"}"}']]),
    ("hermes", '<tool_call>{"id": 7, "name": "add", "arguments": {"a": 1}, "x": true }</tool_call>',
     "",
     [["add", '{"a": 1}']]),
]  # fmt: skip

BROKEN: list[tuple[str, str]] = [
    ("hermes", "a < b and <tool> and <tool_cal"),
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_call>\n  nothing\n</tool_call> and more"),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": }}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1'),
    ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1]}</tool_call>'),
    ("hermes", "<tool_call>" + '{"a":' * 500),
    ("hermes", '  <tool_call> {"name" "add"}   '),
    ("hermes", " " * 500),
    ("llama", '{"name": "Ruby", "parameters": {}}'),
    ("llama", '{"a": 1} is JSON'),
    ("llama", '<|python_tag|>brave_search.call(query="fox")'),
    ("llama", 'The call is {"name": "add", "parameters": {}}'),
    ("mistral", "[TOOL_CALLS] none"),
    ("mistral", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}'),
    ("mistral-args", "[TOOL_CALLS]unknown[ARGS]{}"),
    ("mistral-args", "[TOOL_CALLS]" + "x" * 600),
    ("mistral-ids", "[TOOL_CALLS]sub[CALL_ID]a1B2c3D4e[ARGS]{}"),
    ("hermes", "<tool_call>{}</tool_call>"),
]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("name", "text", "around", "calls"), GOOD)
def test_calls_come_out_of_the_text(
    name: str, text: str, around: str, calls: list[list[str]], streams: bool
) -> None:
    found = heard([text], FORMATS[name], streams=streams)
    if '"{' not in text or not streams:  # only what is held to its form is streamed
        assert found.calls == calls
    assert found.text == around
    assert len(set(found.ids)) == len(found.calls)


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_a_broken_call_is_text_to_the_last_character(name: str, text: str) -> None:
    assert heard([text], FORMATS[name]) == Heard(text=text)


def test_a_whole_call_stands_whatever_breaks_after_it() -> None:
    good = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    found = heard([good + "<tool_call>{oops</tool_call>"], HERMES)
    assert found.calls == [["add", "{}"]]
    assert found.text == "<tool_call>{oops</tool_call>"
    listed = '[TOOL_CALLS][{"name": "add", "arguments": {}}, oops]'
    assert heard([listed], MISTRAL).calls == [["add", "{}"]]


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    name, text = draw(st.sampled_from([(n, t) for n, t, *_ in GOOD] + BROKEN))
    text = draw(st.sampled_from(["", "x", "\n", "{ "])) + text + draw(st.text(max_size=4))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    bounds = [0, *cuts, len(text)]
    return name, text, [text[a:b] for a, b in itertools.pairwise(bounds)]


@given(cut=cut_texts(), streams=st.booleans())
def test_any_cut_of_the_text_gives_the_same(cut: tuple[str, str, list[str]], streams: bool) -> None:
    name, text, parts = cut
    whole = heard([text], FORMATS[name], streams=streams)
    found = heard(parts, FORMATS[name], streams=streams)
    assert (found.text, found.calls) == (whole.text, whole.calls)


@given(text=st.text(alphabet='{}[]":,<>/tool_calTOLCSARG |pyhn1 \n\\', max_size=60))
def test_nothing_is_lost_and_nothing_fails(text: str) -> None:
    for format in FORMATS.values():
        found = heard([text], format)
        if not found.calls:
            assert found.text == text


def _written(name: str, text: str, calls: list[list[str]]) -> bool:
    """Whether a grammar lets a model write *text*: only calls, their names first."""
    return '"{' not in text and "arguments" not in text.partition('"name"')[0] and bool(calls)


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [(n, t, c) for n, t, around, c in GOOD if not around and _written(n, t, c)],
)
@pytest.mark.parametrize("only_calls", [False, True])
def test_a_held_call_that_is_cut_anywhere_leaves_no_text(
    name: str, text: str, calls: list[list[str]], only_calls: bool
) -> None:
    """The rest of its braces and tags used to come out as text, without the "<" of the tag."""
    for end in range(len(text)):
        parser = ToolParser(FORMATS[name], NAMES, streams=True, only_calls=only_calls)
        pieces = parser.feed(text[:end]) + parser.flush()
        said = "".join(piece for piece in pieces if isinstance(piece, str))
        if only_calls:
            assert said == ""
        elif "".join(said.split()) not in FORMATS[name].opening:
            # A bare call is known by its name only.
            assert FORMATS[name].may_be_bare
            assert not any(isinstance(piece, CallDelta) for piece in pieces)
        found: dict[int, str] = {}
        for piece in pieces:
            if isinstance(piece, CallDelta):
                found[piece.index] = found.get(piece.index, "") + piece.arguments
        assert all(calls[i][1].startswith(arguments) for i, arguments in found.items())
        assert parser.has_open_call == (len(found) > parser.n_calls)


def test_a_closing_tag_that_breaks_off_is_text_to_the_last_character() -> None:
    good = '<tool_call>{"name": "add", "arguments": {}}'
    assert heard([good + "\n</tool"], HERMES).text == "\n</tool"


def test_arguments_are_streamed_when_their_schema_is_enforced() -> None:
    parser = ToolParser(HERMES, NAMES, streams=True)
    first = parser.feed('<tool_call>{"name": "add", ')
    assert [(p.index, p.name) for p in first if isinstance(p, CallDelta)] == [(0, "add")]
    assert parser.feed('"arguments": {"a"') == [CallDelta(0, arguments='{"a"')]
    assert parser.feed(": 1}") == [CallDelta(0, arguments=": 1}")]
    assert parser.n_calls == 0
    parser.feed("}</tool_call>")
    assert parser.n_calls == 1


def test_ids_are_what_the_family_of_models_accepts() -> None:
    assert len(heard([GOOD[6][1]], MISTRAL).ids[0]) == 9
    assert heard([GOOD[0][1]], HERMES).ids[0].startswith("call_")


def test_a_lone_surrogate_does_not_break_a_streamed_call() -> None:
    """It used to: the rest of the call came out as text."""
    text = '<tool_call>{"name": "add", "arguments": {"a": "\\ud83d"}}</tool_call>'
    found = heard([text], HERMES, streams=True)
    assert (found.text, found.calls) == ("", [["add", '{"a": "\\ud83d"}']])
    assert heard([text], HERMES, streams=False).calls == found.calls  # a text, too


def test_streamed_arguments_are_valid_json() -> None:
    found = heard([GOOD[0][1]], HERMES, streams=True)
    assert json.loads(found.calls[0][1])["days"] == [1, {"a": None}]
