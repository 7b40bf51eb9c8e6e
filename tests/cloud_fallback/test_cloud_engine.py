"""A cloud provider is an engine: real processes that speak every dialect, on the loopback."""

from __future__ import annotations

from typing import Any

import pytest

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Finished, ReasoningDelta, ToolCallDelta, WriterId
from spillover.runtime.request import GenerationRequest, Message, Tool
from tests.answers import ask, end_of, text_of
from tests.cloud_fallback.cloud_answers import (
    PARTIAL,
    TEXT,
    MakeEngine,
    answer,
    every_dialect,
    with_tools,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens, ToolCall


@every_dialect
def test_an_answer_comes_whole_with_its_usage(
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    fake.script(Act(text=TEXT, chunk_chars=3, usage=Tokens(prompt=21, completion=9)))
    events = answer(make_engine(dialect))
    assert text_of(events) == TEXT
    end = end_of(events)
    assert (end.reason, end.stop) == ("stop", None)
    usage = (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.estimated)
    assert usage == (21, 9, False)
    assert isinstance(events[-1], Finished)
    assert end.usage.legs == ()


@with_tools
def test_thoughts_and_tool_calls_are_kept_apart(
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    call = ToolCall(id="call12345", name="weather", arguments='{"city": "Oslo"}')
    script = Act(text="Look.", reasoning="Hm.", tool_calls=(call,), finish="tool_calls")
    fake.script(script)
    tool = Tool(name="weather", parameters={"type": "object", "properties": {}})
    events = answer(make_engine(dialect), tools=(tool,))
    assert text_of(events) == "Look."
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "Hm."
    calls = [e for e in events if isinstance(e, ToolCallDelta)]
    assert calls[0].name == "weather"
    joined = "".join(call.arguments for call in calls)
    assert joined.replace(" ", "") == '{"city":"Oslo"}'
    assert end_of(events).reason == "tool_calls"


@every_dialect
@pytest.mark.parametrize("chunk_chars", [1, 4, 0])
def test_reasoning_between_tags_is_no_part_of_the_answer(
    fake: Fake, make_engine: MakeEngine, dialect: str, chunk_chars: int
) -> None:
    """It used to be shown, and to stand in the way of the seam."""
    tagged = "\n<think>\nIs it `<b>`?\n</think>\n\n<thinking>No.</thinking>\n"
    usage = Tokens(completion=50)
    fake.script(Act(text=TEXT, tagged_reasoning=tagged, chunk_chars=chunk_chars, usage=usage))
    events = answer(make_engine(dialect))
    assert text_of(events) == TEXT
    reasoning = "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    assert reasoning == "Is it `<b>`?No."
    assert end_of(events).usage.reasoning_tokens > 0
    fake.script(Act(text=TEXT, tagged_reasoning=tagged, chunk_chars=chunk_chars))
    assert (
        text_of(answer(make_engine(dialect), split_reasoning=False)).strip()
        == (tagged + TEXT).strip()
    )


@every_dialect
@pytest.mark.parametrize("chunk_chars", [1, 2, 3])
def test_a_character_in_two_events_is_one_character(
    fake: Fake, make_engine: MakeEngine, dialect: str, chunk_chars: int
) -> None:
    """Reading an event's type used to use up the half that was kept of the event before."""
    text = "👩🏽‍🚀 to the moon 🌕🌖, \N{MATHEMATICAL FRAKTUR SMALL H}ello 🦊."
    fake.script(Act(text=text, chunk_chars=chunk_chars, halves_pairs=True))
    assert text_of(answer(make_engine(dialect))) == text


@every_dialect
def test_one_byte_at_a_time_is_the_same_answer(
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    fake.script(Act(text=TEXT, chunk_chars=9, write_bytes=1))
    assert text_of(answer(make_engine(dialect))) == TEXT


@every_dialect
def test_the_limit_of_tokens_ends_an_answer(
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    fake.script(Act(text="a story that goes on and on"))
    events = answer(make_engine(dialect), max_tokens=3)
    assert (text_of(events), end_of(events).reason) == ("a story that", "length")


@every_dialect
def test_a_stop_string_ends_an_answer(fake: Fake, make_engine: MakeEngine, dialect: str) -> None:
    fake.script(Act(text="one, two. three"))
    events = answer(make_engine(dialect), stop=("two",))
    assert (text_of(events), end_of(events).reason) == ("one, ", "stop")


def test_stop_strings_that_the_provider_does_not_take_are_found_here(
    fake: Fake, make_engine: MakeEngine
) -> None:
    fake.script(Act(text="one, two. three, four", chunk_chars=2, hold_after_chunks=9))
    stops = ("no", "non", "none", "nono", ". th")
    events = answer(make_engine(), stop=stops)
    asked = fake.requests[0].json()["stop"]
    assert ". th" not in asked
    end = end_of(events)
    assert (text_of(events), end.reason, end.stop) == ("one, two", "stop", ". th")
    assert end.usage.estimated
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_a_provider_without_usage_gets_an_estimate(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(text="x" * 30, usage=None))
    usage = end_of(answer(make_engine())).usage
    assert (usage.completion_tokens, usage.estimated) == (10, True)
    assert usage.prompt_tokens > 10


@pytest.mark.parametrize(
    ("dialect", "server"),
    [
        ("openai", "vllm"),
        ("anthropic", None),
        ("gemini", None),
        ("vertex", None),
        ("huggingface", None),
        ("tgi", None),
        ("bedrock", None),
    ],
)
def test_a_prefilled_turn_is_continued(
    fake: Fake, make_engine: MakeEngine, dialect: str, server: Any
) -> None:
    engine = make_engine(dialect, server=server)
    assert engine.may_prefill()
    fake.script(Act(text=f"{PARTIAL} fox."))
    turns = (Message(role="user", content="A story."), Message(role="assistant", content=PARTIAL))
    request = GenerationRequest(messages=turns, continue_final_message=True)
    assert text_of(engine.stream(request)) == " fox."


def test_the_writer_is_named(make_engine: MakeEngine) -> None:
    engine = make_engine("anthropic", name="work")
    assert engine.name == "work"
    expected = WriterId(origin="cloud", model="claude-haiku-4-5", provider="work")
    assert engine.writer == expected


def test_several_choices_are_refused_before_anything_is_sent(
    fake: Fake, make_engine: MakeEngine
) -> None:
    with pytest.raises(InvalidRequest, match="one answer at a time"):
        answer(make_engine(), n=2)
    assert fake.record.accepted == 0


def test_nothing_is_sent_before_the_first_event_is_asked_for(
    fake: Fake, make_engine: MakeEngine
) -> None:
    stream = make_engine().stream(ask())
    stream.close()
    assert fake.record.accepted == 0
