"""Tool calls on a route: a call has one writer, and the tools go where the answer goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import jsonschema
import pytest
from msgspec import structs

from spillover.cloud_fallback.events import StreamEvent
from spillover.runtime.events import ToolCallDelta
from spillover.runtime.request import GenerationRequest, Message, Tool
from spillover.runtime.request import ToolCall as Called
from spillover.runtime.sampling import Sampling
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    CALM,
    DIALECTS,
    OUT_OF_MEMORY,
    Desk,
    end,
    handoffs,
    joined,
    long,
    provider,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act, ToolCall

NOTE = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 60, "maxLength": 80}},
    "required": ["text"],
    "additionalProperties": False,
}
NOTES = Tool(name="note", description="Writes a note down.", parameters=NOTE)
ARGUMENTS = json.dumps({"text": "A fox named Ruby. " * 4})

CALL = ToolCall(name="note", arguments=ARGUMENTS)


def arguments(events: Iterable[StreamEvent], index: int = 0) -> str:
    parts = [e for e in events if isinstance(e, ToolCallDelta) and e.index == index]
    return "".join(e.arguments for e in parts)


def calling() -> GenerationRequest:
    """A request that the local model answers with a call."""
    return ask(
        sampling=Sampling(seed=1),
        max_tokens=150,
        tools=(NOTES,),
        tool_choice="required",
        parallel_tool_calls=False,
    )


@pytest.fixture
def desk(make_desk: MakeDesk, fake: Fake) -> Desk:
    return make_desk(fake, policy=structs.replace(CALM, local_tools=True))


@pytest.mark.parametrize("trouble", ["user", "memory"])
def test_a_call_that_has_begun_is_written_to_its_end_here(
    desk: Desk, fake: Fake, trouble: str
) -> None:
    """Half a call can neither be continued nor taken back; the conversation goes on there."""
    fake.script(Act(text="All noted."))
    answer_id, stream = desk.start(calling())
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if len(arguments(events)) >= 10:
            if trouble == "memory":
                desk.reading = OUT_OF_MEMORY
            else:
                desk.router.hand_over(answer_id)
    assert not handoffs(events)
    jsonschema.validate(json.loads(arguments(events)), NOTE)
    assert end(events).reason == "tool_calls"
    assert fake.requests == []
    if trouble == "user":
        turns = (
            *ask().messages,
            Message(
                role="assistant",
                content="",
                tool_calls=(Called(id="c", name="note", arguments=arguments(events)),),
            ),
            Message(role="tool", content="done", tool_call_id="c"),
        )
        later = desk.ask(GenerationRequest(messages=turns, tools=(NOTES,), max_tokens=40))
        assert [h.reason for h in handoffs(later)] == ["sticky"]
        assert text(later) == "All noted."


def test_a_call_that_came_after_the_wish_for_a_handoff_is_made_by_the_next_writer(
    desk: Desk, fake: Fake
) -> None:
    """Only its first words were there when the local model was stopped: nobody has seen them."""
    fake.script(Act(text="", tool_calls=(CALL,), finish="tool_calls"))
    answer_id, stream = desk.start(calling())
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        desk.router.hand_over(answer_id)
    assert len(handoffs(events)) == 1
    assert json.loads(arguments(events)) == json.loads(ARGUMENTS)
    assert end(events).reason == "tool_calls"


FRAMES = (
    '{"role":"assistant","content":""}',
    '{"tool_calls":[{"index":0,"id":"call_1","type":"function",'
    '"function":{"name":"note","arguments":""}}]}',
    '{"tool_calls":[{"index":0,"function":{"arguments":"{\\"text\\": \\"A fo"}}]}',
)


def test_a_call_that_the_provider_breaks_off_is_an_interrupted_answer(
    make_desk: MakeDesk, make_fake: Callable[[], Fake]
) -> None:
    first, second = make_fake(), make_fake()
    desk = make_desk(first, second, policy=structs.replace(CALM, local_tools=True))
    raw = tuple(
        f'data: {{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}\n\n'
        for delta in FRAMES
    )
    first.script(Act(raw=raw))
    events = desk.ask(long(tools=(NOTES,)), hand_over_at=60)
    assert arguments(events) == '{"text": "A fo'
    assert end(events).reason == "interrupted"
    assert second.requests == []
    assert [h.target.provider for h in handoffs(events)] == ["fake-1"]


@pytest.mark.parametrize("name", DIALECTS)
def test_the_tools_go_where_the_answer_goes(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], name: str
) -> None:
    fake = make_fake()
    base_url = f"{fake.url}/v1" if name == "openai" else fake.url
    desk = make_desk(
        providers=[provider(fake, base_url=base_url, **DIALECTS[name])],
        policy=structs.replace(CALM, local_tools=True),
    )
    fake.script(Act(rest=" Let me note that.", tool_calls=(CALL,), finish="tool_calls"))
    events = desk.ask(long(tools=(NOTES,)), hand_over_at=60)
    (handoff,) = handoffs(events)
    assert "Writes a note down." in fake.requests[0].body
    assert "minLength" in fake.requests[0].body
    assert text(events) == joined(text(events[: events.index(handoff)]), " Let me note that.")
    assert json.loads(arguments(events)) == json.loads(ARGUMENTS)
    named = [e for e in events if isinstance(e, ToolCallDelta) and e.name]
    assert [e.name for e in named] == ["note"]
    assert end(events).reason == "tool_calls"


def test_gemini_gets_its_signature_of_an_earlier_call_back(
    make_desk: MakeDesk, make_fake: Callable[[], Fake]
) -> None:
    """Gemini 3 refuses calls of its own without it; clients give back the call's id alone."""
    fake = make_fake()
    gemini = provider(fake, base_url=fake.url, dialect="gemini", model="gemini-3.6-flash")
    desk = make_desk(providers=[gemini])
    fake.script(Act(text="", tool_calls=(CALL,), finish="tool_calls"), Act(text="All noted."))
    first = ask(tools=(NOTES,))
    events = desk.ask(first)
    (called,) = [e for e in events if isinstance(e, ToolCallDelta) and e.name]
    call = Called(id=called.id or "", name="note", arguments=arguments(events))
    foreign = Called(id="elsewhere", name="note", arguments="{}")
    for known, signature in (
        (call, "signed-call_1"),
        (foreign, "skip_thought_signature_validator"),
    ):
        turns = (
            *first.messages,
            Message(role="assistant", content="", tool_calls=(known,)),
            Message(role="tool", content="done", tool_call_id=known.id),
        )
        desk.ask(GenerationRequest(messages=turns, tools=(NOTES,), max_tokens=40))
        part = fake.requests[-1].json()["contents"][1]["parts"][0]
        assert part["thoughtSignature"] == signature
