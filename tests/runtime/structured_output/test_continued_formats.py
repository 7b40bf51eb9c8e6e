"""Answers of a given form that go on from what is there already."""

from __future__ import annotations

import json
import os
import queue
import signal
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from spillover.runtime.backend import Constraint
from spillover.runtime.errors import EngineBusy, InvalidRequest
from spillover.runtime.events import EngineEvent, ReasoningDelta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import Gbnf, GenerationRequest, JsonSchema, Message, ResponseFormat
from spillover.runtime.sampling import Sampling
from spillover.runtime.scheduling.sequence import Job
from spillover.runtime.text.template_tags import TagPair
from spillover.runtime.worker import constraint_compiler
from spillover.runtime.worker.constraint_compiler import ConstraintCompiler
from spillover.runtime.worker.loading import LoadedModel
from tests.answers import GREEDY, all_at_once, end_of, text_of, was_preempted
from tests.measured import measured
from tests.runtime.structured_output.schemas import SAID, thing

FOX = thing(
    name={"type": "string", "maxLength": 12}, age={"type": "integer", "minimum": 0, "maximum": 99}
)
WANTED = Message(role="user", content="Describe a fox named Ruby as JSON.")


def continued(
    begun: str, response_format: ResponseFormat | None, **fields: Any
) -> GenerationRequest:
    """The assistant's message *begun* is to be continued."""
    return GenerationRequest(
        messages=(WANTED, Message(role="assistant", content=begun)),
        continue_final_message=True,
        response_format=response_format,
        **{"sampling": GREEDY, "max_tokens": 80, **fields},
    )


@pytest.mark.parametrize(
    "begun",
    ["{", '{"na', '{"name": "', '{"name": "Ru', '{"name":"Ru"', '{"name": "Ruby", "age": 1'],
)
def test_a_started_answer_is_completed_in_its_format(engine: LocalEngine, begun: str) -> None:
    for sampling in (GREEDY, Sampling(seed=4, temperature=1.2)):
        events = list(engine.stream(continued(begun, JsonSchema(schema=FOX), sampling=sampling)))
        assert end_of(events).reason == "stop"
        jsonschema.validate(json.loads(begun + text_of(events)), FOX)


def test_all_choices_continue_from_there(engine: LocalEngine) -> None:
    request = continued('{"name": "', JsonSchema(schema=FOX), n=3, sampling=Sampling(seed=1))
    events = list(engine.stream(request))
    for choice in range(3):
        jsonschema.validate(json.loads('{"name": "' + text_of(events, choice)), FOX)


def test_an_answer_that_is_already_complete_ends_at_once(engine: LocalEngine) -> None:
    events = list(engine.stream(continued('{"name": "Ruby", "age": 7}', JsonSchema(schema=FOX))))
    assert text_of(events) == ""
    assert end_of(events).reason == "stop"


def test_json_that_another_writer_began_on_many_lines_continues(engine: LocalEngine) -> None:
    begun = '{\n  "name" : "Ruby",\n  "age": '
    # A weak model fills the lines that are allowed now with blanks.
    events = list(engine.stream(continued(begun, JsonSchema(schema=FOX), max_tokens=300)))
    jsonschema.validate(json.loads(begun + text_of(events)), FOX)


def test_a_grammar_continues_too(engine: LocalEngine) -> None:
    response_format = Gbnf(grammar='root ::= "one, " "two, " [0-9]')
    events = list(engine.stream(continued("one, tw", response_format)))
    assert text_of(events)[:-1] == "o, "


@pytest.mark.parametrize(
    "begun", ["Well, ", '{"age"', '{"name": 5', '{"name": "Ruby the quick fox']
)
def test_the_beginning_of_another_format_is_refused(engine: LocalEngine, begun: str) -> None:
    with pytest.raises(InvalidRequest, match="the answer so far") as caught:
        list(engine.stream(continued(begun, JsonSchema(schema=FOX))))
    assert caught.value.param == "response_format"


def test_a_prompt_may_end_with_the_beginning_of_the_answer(engine: LocalEngine) -> None:
    prompt = 'A fox as JSON: {"name": "Ru'
    for given in (prompt, engine.tokenize(prompt, add_special=True, parse_special=False)):
        request = GenerationRequest(
            prompt=given,
            begun='{"name": "Ru',
            response_format=JsonSchema(schema=FOX),
            sampling=GREEDY,
            max_tokens=60,
        )
        text = text_of(engine.stream(request))
        jsonschema.validate(json.loads('{"name": "Ru' + text), FOX)


def test_a_killed_worker_continues_from_there(any_model_path: Path, tmp_path: Path) -> None:
    schema = thing(text={"type": "string", "minLength": 150, "maxLength": 200})
    begun = '{"text": "Ruby '
    request = continued(begun, JsonSchema(schema=schema), max_tokens=200)
    with LocalEngine(
        any_model_path, EngineOptions(cache_dir=measured(tmp_path), n_parallel=1, n_threads=1)
    ) as engine:
        events: list[EngineEvent] = []
        killed = None
        for event in engine.stream(request):
            events.append(event)
            if killed is None and len(text_of(events)) > 20:
                killed = engine.worker_pid
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
        assert engine.status().n_restarts == 1
    jsonschema.validate(json.loads(begun + text_of(events)), schema)


def test_preempted_answers_continue_from_there(any_model_path: Path, tmp_path: Path) -> None:
    begun = '{"text": "Ruby '
    schema = thing(text={"const": SAID})
    request = continued(begun, JsonSchema(schema=schema), max_tokens=220)
    options = EngineOptions(
        n_ctx=256, n_parallel=5, n_kv=256, cache_dir=measured(tmp_path), n_threads=1
    )
    with LocalEngine(any_model_path, options) as engine:
        answers = all_at_once(engine, [request] * 5)
    for events in answers:
        assert json.loads(begun + text_of(events)) == {"text": SAID}
    assert any(map(was_preempted, answers))


def thinking(loaded: LoadedModel, begun: str) -> Constraint:
    """The constraint of a message that a model which thinks has begun."""
    request = continued(begun, JsonSchema(schema=FOX))
    compiler = ConstraintCompiler(loaded.backend, (TagPair("<think>", "</think>"),))
    job = Job(id=1, request=request, prompt=np.array([1], dtype=np.int32), seed=1, pipelines=())
    (constraint,) = compiler._constraints(job, "assistant:" + begun, None)
    return constraint


@pytest.mark.parametrize(
    ("begun", "allowed", "refused"),
    [
        ("<think>A fox", " is", None),
        ('<think>A fox.</think>\n{"name": "', "R", "\n"),
        ("<think>A fox.</think>", "{", "R"),
        ('{"name": "', "R", "\n"),
    ],
)
def test_the_format_begins_after_the_reasoning(
    loaded: LoadedModel, begun: str, allowed: str, refused: str | None
) -> None:
    constraint = thinking(loaded, begun)

    def may_come(text: str) -> bool:
        ids = loaded.backend.tokenize(text, add_special=False, parse_special=False)
        return constraint.allows(int(ids[0]))

    assert may_come(allowed)
    assert refused is None or not may_come(refused)


def test_a_format_that_was_accepted_is_not_refused_when_its_worker_died(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many may wait; those of the worker before may come all at once, and beside new ones."""
    monkeypatch.setattr(constraint_compiler, "MAX_WAITING", 0)
    compiler = ConstraintCompiler(loaded.backend, ())
    job = Job(
        id=1,
        request=continued("", JsonSchema(schema=FOX)),
        prompt=np.array([1], dtype=np.int32),
        seed=1,
        pipelines=(),
    )
    is_compiled: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def begin(job: Job) -> None:
        compiler.compile(
            job, "", None, lambda *_: is_compiled.put(True), lambda *_: is_compiled.put(False)
        )

    with pytest.raises(EngineBusy):
        begin(job)
    begin(msgspec.structs.replace(job, resumed=((),)))
    assert is_compiled.get(timeout=60)


def test_a_free_answer_may_begin_in_any_way(engine: LocalEngine) -> None:
    assert text_of(engine.stream(continued("Well, ", None, max_tokens=4)))


def test_a_thought_that_is_continued_is_no_answer(engine: LocalEngine) -> None:
    """Only one whose tag ended the prompt was."""
    events = list(engine.stream(continued("<think>A fox", None, max_tokens=4)))
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert thought.startswith(" ")
    assert not text_of(events)
