"""Tool calls over HTTP, with the official client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.edge_server.conftest import Server

ASKED: Any = [{"role": "user", "content": "How is the weather in Brno?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 8},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
CALL: dict[str, Any] = {
    "model": "storyteller", "messages": ASKED, "tools": [WEATHER], "tool_choice": NAMED, "seed": 1,
    "max_tokens": 90,
}  # fmt: skip


def test_a_whole_answer_is_a_call_without_content(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**CALL).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    assert call.id


def test_a_stream_tells_the_name_first_and_then_the_arguments(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**CALL).choices[0].message.tool_calls or []
    first, *parts, last = client.chat.completions.create(**CALL, stream=True)
    assert first.choices[0].delta.role == "assistant"
    deltas = [call for c in parts for call in c.choices[0].delta.tool_calls or []]
    head, *rest = deltas
    assert head.id
    assert head.type == "function"
    assert head.function
    assert head.function.name == "weather"
    assert all(d.id is None and d.index == 0 for d in rest)
    assert len(rest) > 5
    joined = "".join(d.function.arguments or "" for d in deltas if d.function)
    assert [joined] == [call.function.arguments for call in whole if call.type == "function"]
    assert all(not c.choices[0].delta.content for c in parts)
    assert last.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("max_tokens", [2, 12, 24])
def test_a_call_that_max_tokens_cuts_is_the_same_whole_and_streamed(
    client: openai.OpenAI, max_tokens: int
) -> None:
    ask = {**CALL, "max_tokens": max_tokens}
    choice = client.chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "length"
    assert not choice.message.content
    calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
    chunks = list(client.chat.completions.create(**ask, stream=True))
    deltas = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    streamed = "".join(d.function.arguments or "" for d in deltas if d.function)
    assert streamed == "".join(call.function.arguments for call in calls)
    assert not any(c.choices[0].delta.content for c in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_stream_helper_of_the_client_puts_it_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**CALL) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name == "weather"


def test_the_result_of_a_call_goes_into_the_next_answer(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(**CALL).choices[0].message
    (call,) = message.tool_calls or []
    history: Any = [
        *ASKED, message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]  # fmt: skip
    answer = client.chat.completions.create(
        model="storyteller", messages=history, tools=[WEATHER], max_tokens=30, seed=1
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{}]}, "tools[0].function"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_do_not_fit_are_a_400_that_names_the_field(
    server: Server, fields: dict[str, Any], param: str, stream: bool
) -> None:
    body = {**CALL, **fields, "stream": stream}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("arguments", ['{"path": "exam', '"Brno"', "", None, {"city": "Brno"}])
def test_what_was_sent_is_accepted_again(client: openai.OpenAI, arguments: Any) -> None:
    """Null fields were a 400, and so was a call that max_tokens had cut."""
    call = {"id": None, "type": None, "function": {"name": "weather", "arguments": arguments}}
    messages: Any = [
        *ASKED,
        {"role": "assistant", "content": None, "reasoning_content": "a plan", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": None, "content": "sunny"},
        {"role": "user", "content": "Go on."},
    ]
    answer = client.chat.completions.create(
        model="storyteller", messages=messages, tools=[WEATHER], max_tokens=2
    )
    assert answer.usage
    assert answer.usage.prompt_tokens > 0
