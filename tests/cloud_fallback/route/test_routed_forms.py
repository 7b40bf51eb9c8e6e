"""Answers of a given form on a route between the local model and the cloud."""

from __future__ import annotations

import json

import jsonschema
import pytest
from msgspec import structs

from spillover.runtime.events import ToolCallDelta
from spillover.runtime.request import GenerationRequest, JsonSchema, Tool
from spillover.runtime.sampling import Sampling
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import CALM, Desk, end, handoffs, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

NOTE = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 60, "maxLength": 80}},
    "required": ["text"],
    "additionalProperties": False,
}


LONG_NOTE = {
    **NOTE,
    "properties": {"text": {"type": "string", "minLength": 200, "maxLength": 220}},
}


def test_a_local_answer_on_a_route_keeps_its_format(desk: Desk, fake: Fake) -> None:
    request = ask(
        sampling=Sampling(seed=1), max_tokens=150, response_format=JsonSchema(schema=NOTE)
    )
    events = desk.ask(request)
    assert end(events).reason == "stop"
    jsonschema.validate(json.loads(text(events)), NOTE)
    assert not handoffs(events)
    assert fake.requests == []


def test_the_cloud_is_asked_for_the_response_format_too(desk: Desk, fake: Fake) -> None:
    fake.script(Act(rest=' and so the small fox was at home again with its friends."}'))
    text_schema = {"type": "string", "minLength": 400, "maxLength": 800}
    long_note = {**NOTE, "properties": {"text": text_schema}}  # still being written by then
    request = ask(
        sampling=Sampling(seed=1), max_tokens=600, response_format=JsonSchema(schema=long_note)
    )
    events = desk.ask(request, hand_over_at=20)
    assert len(handoffs(events)) == 1
    assert json.loads(fake.requests[0].body)["response_format"]["type"] == "json_schema"
    assert isinstance(json.loads(text(events)), dict)


def test_a_call_is_written_here_by_a_model_that_can(make_desk: MakeDesk, fake: Fake) -> None:
    desk = make_desk(fake, policy=structs.replace(CALM, local_tools=True))
    tool = Tool(name="note", parameters=NOTE)
    request = ask(
        sampling=Sampling(seed=1),
        max_tokens=150,
        tools=(tool,),
        tool_choice="required",
        parallel_tool_calls=False,
    )
    events = desk.ask(request)
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    jsonschema.validate(json.loads(arguments), NOTE)
    assert end(events).reason == "tool_calls"
    assert fake.requests == []


@pytest.mark.parametrize("act", [Act(refusal="overloaded"), Act(rest=" and", no_terminal=True)])
def test_the_local_model_completes_a_document_that_the_cloud_leaves_unfinished(
    desk: Desk, fake: Fake, act: Act
) -> None:
    """The local model used to begin the form anew, in the middle of what was there."""
    fake.script(act)
    request = ask(
        sampling=Sampling(seed=1), max_tokens=300, response_format=JsonSchema(schema=LONG_NOTE)
    )
    events = desk.ask(request, hand_over_at=20)
    assert handoffs(events)[-1].target.origin == "local"
    assert end(events).reason == "stop"
    jsonschema.validate(json.loads(text(events)), LONG_NOTE)


def test_a_raw_prompt_with_a_format_continues_locally_when_the_cloud_cannot(
    desk: Desk, fake: Fake
) -> None:
    request = GenerationRequest(
        prompt="A note as JSON: ",
        sampling=Sampling(seed=1),
        max_tokens=300,
        response_format=JsonSchema(schema=LONG_NOTE),
    )
    events = desk.ask(request, hand_over_at=20)
    jsonschema.validate(json.loads(text(events)), LONG_NOTE)
    assert fake.requests == []


def test_a_cloud_answer_that_violates_the_format_ends_as_interrupted_never_as_complete(
    desk: Desk, fake: Fake
) -> None:
    fake.script(
        Act(rest='", 5} and that is no JSON', no_terminal=True),
        Act(rest=" nor is this", no_terminal=True),
    )
    request = ask(
        sampling=Sampling(seed=1), max_tokens=300, response_format=JsonSchema(schema=LONG_NOTE)
    )
    events = desk.ask(request, hand_over_at=20)
    assert end(events).reason == "interrupted"
