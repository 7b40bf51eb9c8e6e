"""Tool calls over HTTP, with the official client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from spillover.edge_server.wire.openai.chat import ChatBody, chat_request
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.request import AnswerDefaults, ToolCall
from tests.edge_server.conftest import Server
from tests.edge_server.story import WEATHER

ASKED: Any = [{"role": "user", "content": "How is the weather in Brno?"}]
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


@pytest.mark.parametrize(
    "arguments", ['{"path": "exam', '"Brno"', "", None, {"city": "Brno"}, ["Brno"]]
)
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


def test_an_earlier_call_of_a_custom_tool_is_read() -> None:
    """It was a 400, at every turn to come."""
    call = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "x"}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    body = decode(json.dumps({"messages": messages}).encode(), ChatBody)
    (message,) = chat_request(body, AnswerDefaults()).messages
    assert message.tool_calls == (ToolCall(id="c", name="patch", arguments='{"input":"x"}'),)


RAIN: Any = {"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "allowed",
    [
        {"allowed_tools": {"mode": "required", "tools": [NAMED]}},
        {"allowed_tools": {"mode": "required", "tools": [{"type": "function", "name": "weather"}]}},
    ],
)
def test_only_allowed_tools_are_called(http: httpx.Client, allowed: dict[str, Any]) -> None:
    """It was a 400."""
    choice = {"type": "allowed_tools", **allowed}
    body = CALL | {"tools": [RAIN, WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("allowed", "param"),
    [
        ({"mode": "maybe", "tools": [NAMED]}, "tool_choice.allowed_tools.mode"),
        ({"tools": [{"type": "function", "name": "no"}]}, "tool_choice.allowed_tools.tools"),
        ({"tools": [{"type": "web_search"}]}, "tool_choice.allowed_tools.tools[0]"),
    ],
)
def test_impossible_allowed_tools_are_named(
    http: httpx.Client, allowed: dict[str, Any], param: str
) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = http.post("/v1/chat/completions", json=CALL | {"tool_choice": choice})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


OLD_CALL: dict[str, Any] = {
    "model": "storyteller", "messages": ASKED, "functions": [WEATHER["function"]],
    "function_call": {"name": "weather"}, "seed": 1, "max_tokens": 90,
}  # fmt: skip


def test_functions_are_answered_in_their_own_shape(client: openai.OpenAI) -> None:
    """They were ignored in silence."""
    choice = client.chat.completions.create(**OLD_CALL).choices[0]
    called = choice.message.function_call
    assert called
    assert choice.finish_reason == "function_call"
    assert called.name == "weather"
    assert set(json.loads(called.arguments)) == {"city", "days"}
    assert choice.message.tool_calls is None
    _, *parts, last = client.chat.completions.create(**OLD_CALL, stream=True)
    deltas = [d for c in parts if (d := c.choices[0].delta.function_call)]
    assert [d.name for d in deltas] == ["weather"] + [None] * (len(deltas) - 1)
    assert "".join(d.arguments or "" for d in deltas) == called.arguments
    assert last.choices[0].finish_reason == "function_call"


def test_functions_that_are_not_wanted_are_not_called(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**OLD_CALL | {"function_call": "none"}).choices[0]
    assert choice.message.function_call is None
    assert choice.message.content


def test_the_result_of_a_function_goes_into_the_next_prompt(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    message = client.chat.completions.create(**OLD_CALL).choices[0].message
    assert message.function_call
    calls = [{"id": "c", "type": "function", "function": message.function_call.model_dump()}]
    old: list[Any] = [message.model_dump(), {"role": "function", "name": "weather"}]
    new: list[Any] = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c"},
    ]
    lengths = []
    for history in (old, new):
        history[1]["content"] = "sunny"
        body = {"messages": [*ASKED, *history], "max_tokens": 1}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        lengths.append(answer.json()["usage"]["prompt_tokens"])
    assert lengths[0] >= lengths[1] > 20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"function_call": {"name": "no"}}, "function_call"),
        ({"function_call": "always"}, "function_call"),
        ({"tools": [WEATHER]}, "functions"),
        ({"functions": [{}]}, "functions[0].name"),
    ],
)
def test_impossible_functions_are_named(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/chat/completions", json=OLD_CALL | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
