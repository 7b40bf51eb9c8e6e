"""Tool calls of the bundled models, which would never make one by themselves."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from spillover.runtime.chat.chat_template import ChatTemplate
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Delta, EngineEvent, ReasoningDelta, ToolCallDelta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import JsonObject, Message, NamedTool, Regex, Tool, ToolCall
from spillover.runtime.sampling import Sampling
from spillover.runtime.structured_output import trial
from spillover.runtime.structured_output.factory import ConstraintFactory
from spillover.runtime.tools.formats import (
    FUNCTOOLS,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_IDS,
)
from spillover.runtime.tools.parser import CallDelta, ToolParser
from spillover.runtime.tools.plan import ToolPlan, plan_tools
from spillover.runtime.tools.tool_format import ToolFormat
from tests.answers import ask, end_of, text_of, worker_of
from tests.edge_server.story import FUNCTION
from tests.loading import load
from tests.measured import measured

WEATHER = Tool(**FUNCTION)
REFERS = Tool(
    name="add",
    parameters={
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.org/add.json",
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/digit"}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
UNSAYABLE = Tool(
    name="odd",
    parameters={
        "type": "object",
        "properties": {"a": {"not": {"type": "string"}}},
        "maxProperties": 1,
    },
)
NOTE = Tool(
    name="note",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 100, "maxLength": 120}},
        "required": ["text"],
        "additionalProperties": False,
    },
)
QUESTION = "How is the weather in Brno?"


def calls_of(events: list[EngineEvent]) -> list[tuple[str, Any]]:
    """Name and decoded arguments of each call of the first choice."""
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            if event.id is not None:
                assert event.index == len(calls)
                calls.append([event.name or "", ""])
            calls[event.index][1] += event.arguments
    return [(name, json.loads(arguments)) for name, arguments in calls]


def wanted(**fields: Any) -> Any:
    return ask(QUESTION, sampling=Sampling(seed=1), max_tokens=90, **fields)


def test_a_named_tool_is_called_with_arguments_that_follow_its_schema(engine: LocalEngine) -> None:
    for tool in (WEATHER, REFERS):
        request = wanted(tools=(WEATHER, REFERS), tool_choice=NamedTool(name=tool.name))
        events = list(engine.stream(request))
        ((name, arguments),) = calls_of(events)
        assert name == tool.name
        jsonschema.validate(arguments, tool.parameters)
        assert end_of(events).reason == "tool_calls"
        assert text_of(events) == ""


def test_required_calls_one_of_the_tools(engine: LocalEngine) -> None:
    request = wanted(tools=(REFERS, WEATHER), tool_choice="required", parallel_tool_calls=False)
    events = list(engine.stream(request))
    ((name, arguments),) = calls_of(events)
    jsonschema.validate(arguments, {"add": REFERS, "weather": WEATHER}[name].parameters)


def test_arguments_are_streamed_token_by_token(engine: LocalEngine) -> None:
    request = wanted(tools=(NOTE,), tool_choice="required", logprobs=0)
    deltas = [e for e in engine.stream(request) if isinstance(e, ToolCallDelta)]
    assert deltas[0].name == "note"
    assert len(deltas) > 10
    assert all(len(d.logprobs) == len(d.token_ids) for d in deltas)


@pytest.mark.parametrize("stop", ["\n", "e", "}"])
def test_a_stop_string_does_not_cut_a_call(engine: LocalEngine, stop: str) -> None:
    request = wanted(tools=(WEATHER,), tool_choice="required", parallel_tool_calls=False)
    whole = list(engine.stream(request))
    stopped = list(engine.stream(msgspec.structs.replace(request, stop=(stop,))))
    assert calls_of(stopped) == calls_of(whole)
    assert end_of(stopped).reason == "tool_calls"


def test_a_call_that_max_tokens_cuts_is_not_text(engine: LocalEngine) -> None:
    request = wanted(tools=(NOTE,), tool_choice="required", parallel_tool_calls=False)
    n_shown = 0
    for n in (1, 3, 8, 16, 24, 32):
        events = list(engine.stream(msgspec.structs.replace(request, max_tokens=n)))
        assert end_of(events).reason == "length"
        assert text_of(events) == ""
        deltas = [e for e in events if isinstance(e, ToolCallDelta)]
        n_shown += bool(deltas)
        assert [d.name for d in deltas if d.id is not None] == ["note"][: len(deltas)]
        arguments = "".join(d.arguments for d in deltas)
        assert '{"text": "'.startswith(arguments[:10])
    assert n_shown


@pytest.mark.parametrize(
    "place",
    [
        {"not": {"const": 3}},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"if": {"type": "string"}, "then": {"minLength": 2}},
        {"type": "array", "uniqueItems": True, "maxItems": 2},
        {"$ref": "https://example.org/schema.json"},
        {"type": "object", "patternProperties": {"(?!x)": {}}, "additionalProperties": False},
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
        {"description": "Python's word.", "type": "dict"},
    ],
    ids=lambda place: next(key for key in place if key != "type"),
)
def test_only_the_place_that_no_grammar_can_say_is_free(
    engine: LocalEngine, place: dict[str, Any]
) -> None:
    properties = {"days": {"type": "integer", "minimum": 1, "maximum": 9}, "odd": place}
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["days"],
        "additionalProperties": False,
    }
    tool = Tool(name="plan", parameters=schema)
    request = wanted(tools=(tool,), tool_choice="required", parallel_tool_calls=False)
    arguments = "".join(
        event.arguments for event in engine.stream(request) if isinstance(event, ToolCallDelta)
    )
    assert re.match(r'\{"days": ?[1-9][,}]', arguments), arguments


def test_auto_answers_with_text_when_the_model_does_not_call(engine: LocalEngine) -> None:
    events = list(engine.stream(wanted(tools=(WEATHER,))))
    assert not calls_of(events)
    assert text_of(events)


def test_none_is_an_answer_as_without_tools(engine: LocalEngine) -> None:
    plain = text_of(engine.stream(wanted()))
    assert text_of(engine.stream(wanted(tools=(WEATHER,), tool_choice="none"))) == plain


def test_a_format_and_tools_give_one_of_the_two(engine: LocalEngine) -> None:
    events = list(engine.stream(wanted(tools=(WEATHER,), response_format=JsonObject())))
    if end_of(events).reason == "stop":
        assert isinstance(json.loads(text_of(events)), dict)
    elif end_of(events).reason == "tool_calls":
        assert calls_of(events)[0][0] == "weather"


def test_a_schema_that_no_grammar_says_is_refused_only_when_it_is_strict(
    engine: LocalEngine,
) -> None:
    events = list(engine.stream(wanted(tools=(UNSAYABLE,), tool_choice="required")))
    if end_of(events).reason == "tool_calls":
        assert isinstance(calls_of(events)[0][1], dict)
    strict = Tool(name="odd", parameters=UNSAYABLE.parameters, strict=True)
    with pytest.raises(InvalidRequest) as caught:
        list(engine.stream(wanted(tools=(WEATHER, strict))))
    assert caught.value.param == "tools[1].function.parameters"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": (WEATHER,), "tool_choice": NamedTool(name="x")}, "tool_choice"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": (WEATHER, WEATHER)}, "tools[1].function.name"),
        ({"tools": (Tool(name="a b"),)}, "tools[0].function.name"),
        ({"tools": (WEATHER,), "response_format": Regex(pattern="a")}, "response_format"),
    ],
)
def test_tools_that_do_not_fit_are_refused(
    engine: LocalEngine, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        list(engine.stream(wanted(**fields)))
    assert caught.value.param == param


def test_a_killed_worker_continues_inside_a_call(any_model_path: Path, tmp_path: Path) -> None:
    request = wanted(tools=(NOTE,), tool_choice="required", parallel_tool_calls=False)
    with LocalEngine(
        any_model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1)
    ) as engine:
        events: list[EngineEvent] = []
        for event in engine.stream(request):
            events.append(event)
            n_deltas = sum(isinstance(e, ToolCallDelta) for e in events)
            if n_deltas == 8 and isinstance(event, ToolCallDelta):
                os.kill(worker_of(engine), signal.SIGKILL)
        assert engine.status().n_restarts == 1
    ((name, arguments),) = calls_of(events)
    assert name == "note"
    jsonschema.validate(arguments, NOTE.parameters)
    n_told = sum(
        len(e.token_ids) for e in events if isinstance(e, Delta | ReasoningDelta | ToolCallDelta)
    )
    assert n_told <= end_of(events).usage.completion_tokens <= n_told + 12


# --- every format, with the real vocabulary ---------------------------------------------------


@pytest.fixture(scope="module")
def factory(model_path: Path) -> ConstraintFactory:
    return ConstraintFactory(
        load(model_path, "storyteller", EngineOptions(n_ctx=256, n_threads=1)).backend
    )


CALLS = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "llama": '{"name": "add", "parameters": {"a": 1}}',
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]',
    "mistral-args": '[TOOL_CALLS]add[ARGS]{"a": 1}',
    "mistral-ids": '[TOOL_CALLS]add[CALL_ID]a1B2c3D4e[ARGS]{"a": 1}',
}


def follow(factory: ConstraintFactory, plan: ToolPlan, text: str) -> bool:
    """Whether *text* may be written under the grammar of *plan*, and the answer may end then."""
    constraint = factory.answer(None, plan)()
    tokens = factory._backend.tokenize(text, add_special=False, parse_special=False).tolist()
    for token in tokens:
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.allows(next(iter(factory.vocabulary.eog_tokens)))


@pytest.mark.parametrize(
    "format", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, MISTRAL_IDS], ids=lambda f: f.name
)
def test_the_grammar_of_a_format_is_what_its_parser_reads(
    factory: ConstraintFactory, format: ToolFormat
) -> None:
    def plan(*, must_call: bool, several: bool = True) -> ToolPlan:
        return ToolPlan(
            format=format,
            tools=(REFERS,),
            must_call=must_call,
            several=several,
            is_constrained=True,
        )

    call = CALLS[format.name]
    parser = ToolParser(format, {"add": {}}, streams=True)
    pieces = parser.feed(call) + parser.flush()
    assert parser.n_calls == 1
    assert all(isinstance(piece, CallDelta) for piece in pieces)
    must = plan(must_call=True)
    assert follow(factory, must, call)
    assert not follow(factory, must, "Well, " + call)
    assert not follow(factory, must, call.replace("add", "sub"))
    assert not follow(factory, must, call.replace("1", "11"))
    if not format.may_be_bare:
        assert follow(factory, plan(must_call=False), "Well, " + call)
        assert not follow(factory, plan(must_call=False), "Well, " + call.replace("add", "sub"))
        assert follow(factory, plan(must_call=False), "Only text.")
    if format is HERMES:
        assert follow(factory, must, call + "\n" + call)
        assert not follow(factory, plan(must_call=True, several=False), call + "\n" + call)


def test_a_word_that_texts_hold_too_opens_no_call_by_itself() -> None:
    """functools.reduce had to go on as a call."""
    plan = plan_tools(wanted(tools=(WEATHER,)), FUNCTOOLS)
    assert plan is not None
    assert not plan.is_constrained
    text = "Take functools.reduce."
    parser = plan.parser()
    assert "".join(map(str, parser.feed(text) + parser.flush())) == text


# --- templates ----------------------------------------------------------------------------------

HISTORY = (
    Message(role="user", content=QUESTION),
    Message(
        role="assistant",
        content="",
        tool_calls=(ToolCall(id="c1", name="weather", arguments='{"city": "Brno", "days": 1}'),),
    ),
    Message(role="tool", content="sunny", tool_call_id="c1"),
)
KNOWING = (
    "{% if tools %}{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    '{{ c.id }}=<tool_call>{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}</tool_call>"
    "{% endfor %}{% endif %}{% if m.tool_call_id %}<{{ m.tool_call_id }}{% endif %};{% endfor %}"
)


def test_a_template_that_knows_tools_gets_them_in_the_usual_shape() -> None:
    template = ChatTemplate(KNOWING, bos_text="", eos_text="", name="m")
    prompt = template.render(HISTORY, tools=(WEATHER,))
    assert prompt == (
        f"[weather]user:{QUESTION};assistant:c1="
        '<tool_call>{"name": "weather", "arguments": {"city": "Brno", "days": 1}}</tool_call>;'
        "tool:sunny<c1;"
    )


def test_a_template_that_knows_no_tools_gets_them_as_text() -> None:
    template = ChatTemplate(None, bos_text="", eos_text="", name="m")
    prompt = template.render(HISTORY, tools=(WEATHER,))
    assert '"name": "weather"' in prompt
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Brno", "days": 1}}' in prompt
    assert "<tool_response>\nsunny\n</tool_response>" in prompt
    assert prompt.startswith("<|im_start|>system")


def test_many_tools_that_take_long_to_compile_are_refused_together(
    factory: ConstraintFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took as long as it may, while all other response formats waited."""
    monkeypatch.setattr(trial, "CPU_S", 0.2)
    monkeypatch.setattr("spillover.runtime.structured_output.factory.TOOLS_S", 0.5)
    tools = tuple(
        Tool(name=f"t{i}", parameters={"properties": {"a": {"multipleOf": 99_999_000 + i}}})
        for i in range(100)
    )
    plan = ToolPlan(format=HERMES, tools=tools, must_call=True, several=True, is_constrained=True)
    with pytest.raises(InvalidRequest, match="take too long to compile"):
        factory.answer(None, plan)
    few = msgspec.structs.replace(plan, tools=tools[:2])
    assert not factory.answer(None, few)().has_failed


def test_the_same_tools_are_checked_once(factory: ConstraintFactory) -> None:
    """More than 16 tools were checked again at each turn, which took tenths of a second."""
    tools = tuple(Tool(name=f"n{i}", parameters={"required": [f"a{i}"]}) for i in range(20))
    plan = ToolPlan(format=HERMES, tools=tools, must_call=False, several=True, is_constrained=True)
    assert not factory.answer(None, plan)().has_failed
    spent_s = factory._trial.spent_s
    assert not factory.answer(None, msgspec.structs.replace(plan))().has_failed
    assert factory._trial.spent_s == spent_s
