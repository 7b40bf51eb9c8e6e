"""A real instruct model calls a tool, and hands its answer over and takes it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from spillover.runtime.events import ToolCallDelta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import Tool
from tests.answers import ask, end_of
from tests.cloud_fallback.route.desk import Desk, end, handoffs, joined, long, provider, seams, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

pytestmark = pytest.mark.real_model

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOL = Tool(name="weather", description="The weather of a city.", parameters=WEATHER)
QUESTION = "Explain at length why the sea has tides."
REST = " That is the pull of the moon, and of the sun."


@pytest.fixture
def desk(engine: LocalEngine, fake: Fake, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(engine, tmp_path, [provider(fake)])
    yield desk
    desk.close()


def test_it_calls_a_tool_with_arguments_that_keep_to_the_schema(engine: LocalEngine) -> None:
    request = ask(
        "What is the weather in Paris, in celsius?",
        tools=(TOOL,),
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=120,
    )
    events = list(engine.stream(request))
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert calls[0].name == "weather"
    jsonschema.validate(json.loads("".join(call.arguments for call in calls)), WEATHER)
    assert end_of(events).reason == "tool_calls"


def test_the_cloud_continues_its_answer_from_what_was_said(desk: Desk, fake: Fake) -> None:
    fake.script(Act(rest=REST))
    events = desk.ask(long(text=QUESTION, max_tokens=200), hand_over_at=60)
    (handoff,) = handoffs(events)
    said = text(events[: events.index(handoff)])
    assert len(said) >= 60
    assert text(events) == joined(said, REST)
    assert [seam.kind for seam in seams(events)] == ["anchor"]
    assert [leg.writer.origin for leg in end(events).usage.legs] == ["local", "cloud"]


def test_it_goes_on_where_the_cloud_broke_off(desk: Desk, fake: Fake) -> None:
    fake.script(Act(rest=" That is the pull of the moon, and", no_terminal=True))
    events = desk.ask(long(text=QUESTION, max_tokens=60), hand_over_at=60)
    there, back = handoffs(events)
    said, with_cloud = (text(events[: events.index(handoff)]) for handoff in (there, back))
    assert with_cloud.startswith(said)
    assert len(with_cloud) > len(said)
    assert text(events).startswith(with_cloud)
    assert len(text(events)) > len(with_cloud)
    assert [leg.writer.origin for leg in end(events).usage.legs] == ["local", "cloud", "local"]
