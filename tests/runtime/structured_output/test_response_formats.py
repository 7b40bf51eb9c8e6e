"""Answers of the bundled models that must have a form: a weak model has no other reason to."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import jsonschema
import psutil
import pytest

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineBusy, InvalidRequest
from spillover.runtime.events import Delta, EngineEvent, Finished
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import (
    Gbnf,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    ResponseFormat,
)
from spillover.runtime.sampling import Sampling
from tests.answers import (
    GREEDY,
    all_at_once,
    ask,
    end_of,
    ids_of,
    text_of,
    was_preempted,
    worker_of,
)
from tests.measured import measured
from tests.runtime.structured_output.schemas import SAID, SCHEMAS, thing

MAX_TOKENS = 160
LIST_GBNF = r"""
root  ::= "- " item ("\n- " item)*
item  ::= word (" " word){0,2}
word  ::= [a-z] [a-z]? [a-z]?
"""
NESTED_GBNF = r"""
root  ::= value
value ::= "(" (value ("," value)?)? ")" | [0-9]
"""
SUM_LARK = """
start: term ("+" term){0,3} "=" NUMBER
term: NUMBER | "(" NUMBER "-" NUMBER ")"
NUMBER: /[0-9]{1,2}/
"""
NAME_REGEX = "[A-Z][a-z]{2,5} is (very )?(kind|brave)"
LONG = thing(text={"type": "string", "minLength": 150, "maxLength": 200})


def checked(events: list[EngineEvent], schema: dict[str, object]) -> bool:
    """Whether the answer is complete; then it follows its schema."""
    end = end_of(events)
    assert end.reason in ("stop", "length")
    if end.reason == "stop":
        jsonschema.validate(json.loads(text_of(events)), schema)
    return end.reason == "stop"


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(seed=5, temperature=1.5, top_k=0)], ids=["greedy", "wild"]
)
def test_every_completed_answer_follows_its_schema(engine: LocalEngine, sampling: Sampling) -> None:
    requests = [
        ask(sampling=sampling, max_tokens=MAX_TOKENS, response_format=JsonSchema(schema=schema))
        for schema in SCHEMAS.values()
    ]
    n_complete = 0
    for start in range(0, len(requests), 8):
        answers = all_at_once(engine, requests[start : start + 8])
        for events, schema in zip(answers, list(SCHEMAS.values())[start:], strict=False):
            n_complete += checked(events, schema)
    assert n_complete >= 48


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=2, repeat_penalty=1.3, frequency_penalty=0.5),
        Sampling(seed=3, dry_multiplier=1.0, xtc_probability=0.5),
        Sampling(seed=4, typical_p=0.5, top_p=0.5),
        Sampling(temperature=0, repeat_penalty=1.5),
    ],
    ids=["penalties", "dry and xtc", "typical", "greedy with penalties"],
)
def test_all_samplers_follow_the_format(engine: LocalEngine, sampling: Sampling) -> None:
    schema = SCHEMAS["person"]
    request = ask(
        sampling=sampling, max_tokens=MAX_TOKENS, response_format=JsonSchema(schema=schema)
    )
    assert checked(list(engine.stream(request)), schema)


def test_a_json_object_is_one(engine: LocalEngine) -> None:
    events = list(
        engine.stream(ask(sampling=Sampling(seed=1), max_tokens=250, response_format=JsonObject()))
    )
    if end_of(events).reason == "stop":
        assert isinstance(json.loads(text_of(events)), dict)
    assert text_of(events).startswith("{")


@pytest.mark.parametrize(
    ("response_format", "pattern"),
    [
        (Regex(pattern=NAME_REGEX), NAME_REGEX),
        (Regex(pattern="(a|b)*c{2}"), "(a|b)*c{2}"),
        (Gbnf(grammar=LIST_GBNF), r"(\n?- [a-z]{1,3}( [a-z]{1,3}){0,2})+"),
        (Gbnf(grammar=NESTED_GBNF), r"[(),0-9]+"),
        (Lark(grammar=SUM_LARK), r"[-+()0-9]+=[0-9]{1,2}"),
    ],
    ids=["regex", "regex with a star", "gbnf list", "gbnf nesting", "lark"],
)  # fmt: skip
def test_regexes_and_grammars_are_followed(
    engine: LocalEngine, response_format: ResponseFormat, pattern: str
) -> None:
    for seed in range(4):
        events = list(
            engine.stream(
                ask(sampling=Sampling(seed=seed), max_tokens=60, response_format=response_format)
            )
        )
        text = text_of(events)
        if end_of(events).reason == "stop":
            assert re.fullmatch(pattern, text), text


def test_an_answer_that_is_cut_says_so(engine: LocalEngine) -> None:
    events = list(engine.stream(ask(max_tokens=6, response_format=JsonSchema(schema=LONG))))
    assert end_of(events).reason == "length"
    assert end_of(events).usage.completion_tokens == 6


def test_a_complete_answer_ends_at_once(engine: LocalEngine) -> None:
    response_format = JsonSchema(schema={"const": [1]})
    events = list(
        engine.stream(ask(max_tokens=3, ignore_eos=True, response_format=response_format))
    )
    assert text_of(events) == "[1]"
    assert end_of(events).reason == "stop"
    assert end_of(events).usage.completion_tokens == len(ids_of(events))


def test_a_response_format_overrides_a_bias_that_forbids_it(engine: LocalEngine) -> None:
    opening = ids_of(engine.stream(ask(max_tokens=1, response_format=JsonObject())))[0]
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature, logit_bias={opening: -100.0}, seed=1)
        events = list(
            engine.stream(ask(sampling=sampling, max_tokens=1, response_format=JsonObject()))
        )
        assert ids_of(events) == [opening]


def test_logprobs_are_those_of_the_model_not_of_the_format(engine: LocalEngine) -> None:
    free = list(engine.stream(ask(max_tokens=1, logprobs=1)))
    held = list(engine.stream(ask(max_tokens=1, logprobs=1, response_format=JsonObject())))
    free_record, held_record = (
        next(r for e in events if isinstance(e, Delta) for r in e.logprobs)
        for events in (free, held)
    )
    assert held_record.token.startswith(b"{")
    # The second one finds its prompt in the cache: its logits are rounded in another way.
    (held_top,), (free_top,) = held_record.top, free_record.top
    assert held_top.logprob == pytest.approx(free_top.logprob, abs=0.2)
    assert held_record.logprob < free_record.logprob


def test_a_stop_string_still_ends_the_answer(engine: LocalEngine) -> None:
    events = list(
        engine.stream(
            ask(max_tokens=80, response_format=JsonSchema(schema=SCHEMAS["object"]), stop=("age",))
        )
    )
    assert text_of(events).startswith('{"name')
    assert end_of(events).stop == "age"


def test_choices_are_held_one_by_one(engine: LocalEngine) -> None:
    schema = SCHEMAS["person"]
    request = ask(
        sampling=Sampling(seed=3),
        n=3,
        max_tokens=MAX_TOKENS,
        response_format=JsonSchema(schema=schema),
    )
    events = list(engine.stream(request))
    texts = [text_of(events, choice) for choice in range(3)]
    for choice, text in enumerate(texts):
        if end_of(events, choice).reason == "stop":
            jsonschema.validate(json.loads(text), schema)
    assert len(set(texts)) > 1


def test_held_and_free_answers_run_together_as_they_do_alone(engine: LocalEngine) -> None:
    requests = [
        ask(max_tokens=40, response_format=JsonSchema(schema=SCHEMAS["person"])),
        ask(max_tokens=40),
        ask(max_tokens=40, response_format=Regex(pattern="[a-z ]{30}")),
    ]
    single = [text_of(engine.stream(request)) for request in requests]
    together = [text_of(events) for events in all_at_once(engine, requests)]
    # The beginnings: later on a near tie may round one way alone and another beside others.
    assert [text[:12] for text in together] == [text[:12] for text in single]
    assert '"name"' in together[0]
    assert re.fullmatch("[a-z ]{30}", together[2])


def test_a_prompt_without_a_conversation_is_held_too(engine: LocalEngine) -> None:
    request = GenerationRequest(
        prompt="One day", max_tokens=40, response_format=Regex(pattern="[0-9]{3}"), sampling=GREEDY
    )
    assert re.fullmatch("[0-9]{3}", text_of(engine.stream(request)))


def test_a_killed_worker_continues_in_the_response_format(
    any_model_path: Path, tmp_path: Path
) -> None:
    request = ask(
        sampling=Sampling(seed=11), max_tokens=200, response_format=JsonSchema(schema=LONG)
    )
    with LocalEngine(
        any_model_path, EngineOptions(cache_dir=measured(tmp_path), n_parallel=1, n_threads=1)
    ) as engine:
        events: list[EngineEvent] = []
        n_restarts = 0
        for event in engine.stream(request):
            events.append(event)
            if not n_restarts and len(text_of(events)) > 20:
                n_restarts = 1
                os.kill(worker_of(engine), signal.SIGKILL)
        assert engine.status().n_restarts == n_restarts == 1
    assert checked(events, LONG)


def test_preempted_answers_keep_their_format(any_model_path: Path, tmp_path: Path) -> None:
    options = EngineOptions(
        n_ctx=256, n_parallel=5, n_kv=256, cache_dir=measured(tmp_path), n_threads=1
    )
    request = ask(max_tokens=230, response_format=JsonSchema(schema=thing(text={"const": SAID})))
    with LocalEngine(any_model_path, options) as engine:
        answers = all_at_once(engine, [request] * 5)
    for events in answers:
        assert json.loads(text_of(events)) == {"text": SAID}
    assert any(map(was_preempted, answers))


def deep(n: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: dict[str, ResponseFormat] = {
    "too deep": JsonSchema(schema=deep(400)),
    "huge enum": JsonSchema(schema={"enum": [f"value {i}" for i in range(100_000)]}),
    "large enum": JsonSchema(schema={"enum": [f"value {i}" * 8 for i in range(15_000)]}),
    "many choices": JsonSchema(
        schema={"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i}]} for i in range(20)]}
    ),
    "unknown keyword": JsonSchema(schema={"not": {"type": "string"}}),
    "nothing fits": JsonSchema(schema={"enum": []}),
    "impossible": JsonSchema(schema={"type": "integer", "minimum": 5, "maximum": 3}),
    "refers to itself": JsonSchema(schema={"$ref": "#"}),
    "fetches": JsonSchema(schema={"$ref": "http://127.0.0.1:1/x"}),
    "wrong kind": JsonSchema(schema={"type": 5}),
    "broken regex": Regex(pattern="("),
    "look-ahead": Regex(pattern="(?=a)b"),
    "long regex": Regex(pattern="(" * 9_000),
    "nested regex": Regex(pattern="(" * 3_000 + "a" + ")*" * 1_000),
    "empty regex": Regex(pattern=""),
    "broken lark": Lark(grammar="start: %%%"),
    "no start": Lark(grammar='x: "a"'),
    "deep lark": Lark(grammar="start: " + "(" * 3000 + '"a"' + ")" * 3000),
    "broken gbnf": Gbnf(grammar='root ::= "a'),
    "no root": Gbnf(grammar='rot ::= "a"'),
    "unknown rule": Gbnf(grammar="root ::= nothing"),
    "deep gbnf": Gbnf(grammar="root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
    "lark without end": Lark(grammar='start: "a" start'),
    "gbnf without end": Gbnf(grammar='root ::= "a" root'),
    "too many alternatives": Lark(grammar="start: " + " | ".join(f'"c{i}"' for i in range(4000))),
    "too many alternatives in gbnf": Gbnf(
        grammar="root ::= " + " | ".join(f'"c{i}"' for i in range(4000))),
    "too many optional members": JsonSchema(
        schema={"type": "object", "properties": {f"p{i}": {} for i in range(601)}}),
    "too many optional members in all": JsonSchema(schema={"anyOf": [
        {"type": "object", "properties": {f"p{j}x{i}": {} for i in range(300)}}
        for j in range(4)]}),
    "long gbnf": Gbnf(grammar='root ::= "a"' + " " * 200_000),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_format_that_cannot_be_followed_is_refused(engine: LocalEngine, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        list(engine.stream(ask(max_tokens=1, response_format=HOSTILE[name])))
    assert caught.value.param == "response_format"


ENDLESS: dict[str, ResponseFormat] = {
    "needs itself": JsonSchema(
        schema={"$defs": {"n": thing(x={"$ref": "#/$defs/n"})}, "$ref": "#/$defs/n"}
    ),
    "grows by itself": JsonSchema(schema={"$defs": {
        **{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(20)},
        "d20": {"type": "string"}}, "$ref": "#/$defs/d0"}),
    "many repeats": Regex(pattern="(.{100}){100}"),
    "catastrophic": Regex(pattern="(a+)+$"),
    "lark left recursion": Lark(grammar='start: start start | "a"'),
    "repeated repeats": Lark(grammar='start: ("a"{0,1000}){0,1000}'),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_what_can_be_compiled_ends_at_its_limit(engine: LocalEngine, name: str) -> None:
    events = list(engine.stream(ask(max_tokens=12, response_format=ENDLESS[name])))
    assert end_of(events).reason in ("length", "stop", "interrupted")


LARGE: dict[str, ResponseFormat] = {
    "500 members": JsonSchema(
        schema={"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(500)}}),
    "6,000 required members": JsonSchema(schema={
        "type": "object", "properties": {f"p{i}": {} for i in range(6_000)},
        "required": [f"p{i}" for i in range(6_000)], "additionalProperties": False}),
    "2,000 alternatives": Lark(grammar="start: " + " | ".join(f'"c{i}"' for i in range(2_000))),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_what_is_large_and_can_be_followed_is(engine: LocalEngine, name: str) -> None:
    events = list(engine.stream(ask(max_tokens=12, response_format=LARGE[name])))
    assert end_of(events).reason in ("length", "stop")


def test_others_get_their_answer_beside_a_format_that_compiles_slowly(engine: LocalEngine) -> None:
    slow = [
        JsonSchema(schema={"type": "object", "patternProperties": {
            f"^p{i}x{j}[a-z]+$": {"type": "integer"} for i in range(400)}})
        for j in range(3)
    ]  # fmt: skip
    refusals: list[InvalidRequest | EngineBusy] = []

    def refused(response_format: ResponseFormat) -> None:
        try:
            list(engine.stream(ask(max_tokens=1, response_format=response_format)))
        except (InvalidRequest, EngineBusy) as error:
            refusals.append(error)

    threads = [threading.Thread(target=refused, args=(form,)) for form in slow]
    for thread in threads:
        thread.start()
    quick = list(engine.stream(ask(max_tokens=4, response_format=JsonObject())))
    n_refused = len(refusals)
    for thread in threads:
        thread.join()
    assert end_of(quick).reason == "length"
    assert n_refused < len(slow)
    assert len(refusals) == len(slow)


def test_a_cancelled_request_ends_before_its_format_is_compiled(engine: LocalEngine) -> None:
    cancellation = Cancellation()
    slow = JsonSchema(schema=thing(**{f"p{i}": {"type": "string"} for i in range(1500)}))
    ended: list[EngineEvent] = []
    thread = threading.Thread(
        target=lambda: ended.extend(engine.stream(ask(response_format=slow), cancellation))
    )
    thread.start()
    cancellation.cancel()
    thread.join(30)
    assert isinstance(ended[-1], Finished)
    assert ended[-1].reason == "cancelled"


def test_the_worker_lives_after_all_of_that(engine: LocalEngine) -> None:
    assert engine.status().n_restarts == 0
    assert psutil.pid_exists(worker_of(engine))
