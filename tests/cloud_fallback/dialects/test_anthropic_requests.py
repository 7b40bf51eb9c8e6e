"""Requests in Anthropic's dialect."""

from __future__ import annotations

from typing import Any

import pytest

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import (
    JsonObject,
    JsonSchema,
    Message,
    NamedTool,
    Regex,
    Tool,
    ToolCall,
)
from spillover.runtime.sampling import Sampling
from tests.cloud_fallback.dialects.conversations import (
    CITY,
    CLOCK,
    HELLO,
    PARTIAL,
    WEATHER,
    WITH_TOOLS,
    ask,
    body_of,
    dialect_for,
    encoded,
)


def text(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": item} for item in texts]}


def test_the_systems_text_stands_apart_and_turns_alternate() -> None:
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="One."),
        Message(role="user", content="Two."),
        Message(role="assistant", content="  "),
        Message(role="user", content="Three."),
        Message(role="developer", content="Be kind."),
        Message(role="assistant", content="Yes."),
        Message(role="user", content="Four."),
    )
    body = body_of("anthropic", ask(messages))
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [
        text("user", "One.", "Two.", "Three."),
        text("assistant", "Yes."),
        text("user", "Four."),
    ]


def test_a_conversation_that_the_assistant_opens_is_opened_by_the_user() -> None:
    messages = (Message(role="assistant", content="May I help?"), *HELLO)
    assert body_of("anthropic", ask(messages))["messages"] == [
        text("user", "."),
        text("assistant", "May I help?"),
        text("user", "Hello"),
    ]


def test_the_request_names_its_version_and_always_a_number_of_tokens() -> None:
    sent = encoded("anthropic", ask())
    assert (sent.path, sent.headers["anthropic-version"]) == ("/v1/messages", "2023-06-01")
    assert encoded("anthropic", ask(), base_url="https://x.y/v1").path == "/messages"
    assert body_of("anthropic", ask(max_tokens=7))["max_tokens"] == 7
    for model, most in (
        ("claude-3-haiku-20240307", 4_096),
        ("claude-3-5-sonnet-20241022", 8_192),
        ("claude-opus-5", 32_000),
        ("something-new", 32_000),
    ):
        assert body_of("anthropic", ask(), model=model)["max_tokens"] == most


def test_samplers_are_sent_as_far_as_the_model_takes_them() -> None:
    both = ask(sampling=Sampling(temperature=1.7, top_p=0.5, top_k=3))
    body = body_of("anthropic", both)
    assert (body["temperature"], body["top_k"]) == (1.0, 3)
    assert "top_p" not in body
    assert body_of("anthropic", ask(sampling=Sampling(top_p=0.5)))["top_p"] == 0.5
    for model in ("claude-opus-4-7", "claude-opus-5", "claude-fable-1"):
        assert (
            not {"temperature", "top_p", "top_k"} & body_of("anthropic", both, model=model).keys()
        )
    assert "temperature" in body_of("anthropic", both, model="kimi-k2")
    assert "temperature" not in body_of("anthropic", both, without=frozenset({"temperature"}))


def test_stop_strings_of_nothing_but_space_are_the_callers() -> None:
    request = ask(stop=("\n\n", "END"))
    assert encoded("anthropic", request).stop == ("END",)
    assert body_of("anthropic", request)["stop_sequences"] == ["END"]


def test_tools_and_their_turns_are_written_out() -> None:
    body = body_of("anthropic", ask(WITH_TOOLS, tools=(WEATHER, CLOCK)))
    _, calls, results = body["messages"]
    weather, clock = calls["content"]
    assert weather == {
        "type": "tool_use",
        "id": "call_1",
        "name": "weather",
        "input": {"city": "Rome"},
    }
    assert clock["input"] == {}
    assert set("./").isdisjoint(clock["id"])
    assert [block["type"] for block in results["content"]] == ["tool_result", "tool_result", "text"]
    assert results["content"][1]["tool_use_id"] == clock["id"]
    assert body["tools"] == [
        {"name": "weather", "description": "Tells the weather.", "input_schema": CITY},
        {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("choice", "parallel", "wire"),
    [
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        (NamedTool(name="clock"), True, {"type": "tool", "name": "clock"}),
    ],
)
def test_a_tool_choice_is_translated(choice: Any, parallel: bool, wire: Any) -> None:
    request = ask(tools=(CLOCK,), tool_choice=choice, parallel_tool_calls=parallel)
    assert body_of("anthropic", request)["tool_choice"] == wire


def test_arguments_that_are_no_object_are_refused() -> None:
    for arguments in ("[1]", "{", '"x"'):
        call = ToolCall(id="a", name="clock", arguments=arguments)
        messages = (*HELLO, Message(role="assistant", content="", tool_calls=(call,)), *HELLO)
        with pytest.raises(InvalidRequest, match="'clock' are not a JSON object"):
            encoded("anthropic", ask(messages))


def test_a_schema_and_strict_tools_are_passed_on_and_other_formats_refused() -> None:
    body = body_of(
        "anthropic",
        ask(response_format=JsonSchema(schema=CITY), tools=(Tool(name="t", strict=True),)),
    )
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": CITY}}
    assert body["tools"][0]["strict"] is True
    for response_format in (JsonObject(), Regex(pattern="a")):
        with pytest.raises(InvalidRequest, match="cannot hold an answer to a"):
            encoded("anthropic", ask(response_format=response_format))


@pytest.mark.parametrize(
    ("model", "continues"),
    [
        ("claude-3-opus-20240229", True),
        ("claude-3-7-sonnet-latest", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-1-20250805", True),
        ("claude-haiku-4-5", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-10", False),
        ("claude-opus-5", False),
        ("claude-sonnet-5-5", False),
        ("claude-fable-4", False),
        ("kimi-k2", False),
    ],
)
def test_only_models_up_to_4_5_continue_a_turn(model: str, continues: bool) -> None:
    assert dialect_for("anthropic").may_prefill(model) is continues


def test_space_is_cut_from_the_end_of_a_prefilled_turn_and_reported() -> None:
    sent = encoded("anthropic", ask(PARTIAL), prefill=True)
    assert (sent.prefilled, sent.trimmed) == ("Good day to", " \n")
    messages = body_of("anthropic", ask(PARTIAL), prefill=True)["messages"]
    assert messages == [text("user", "Hello"), text("assistant", "Good day to")]


def test_an_assistants_last_turn_is_refused_where_it_would_be_continued() -> None:
    with pytest.raises(InvalidRequest, match="last turn is the assistant's"):
        encoded("anthropic", ask(PARTIAL))


def test_a_conversation_without_content_is_refused() -> None:
    for messages in ((Message(role="user", content=" "),), (Message(role="system", content="x"),)):
        with pytest.raises(InvalidRequest, match="no message"):
            encoded("anthropic", ask(messages))


def test_the_key_goes_into_its_own_header() -> None:
    assert dialect_for("anthropic").key_headers("sk-ant") == {"x-api-key": "sk-ant"}
