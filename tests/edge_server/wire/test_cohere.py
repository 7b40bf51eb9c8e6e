"""Cohere's chat: a real server and the official client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cohere
import httpx
import pytest
from cohere.core.api_error import ApiError
from hypothesis import given
from msgspec.structs import replace

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.wire.cohere import CohereStream, CohereWhole
from spillover.runtime.events import Delta, Leg, Origin, ReasoningDelta, ToolCallDelta, WriterId
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.story import STORY, WEATHER
from tests.edge_server.wire.encoded import SAID, encoded, finished
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens
from tests.sse_reader import events_of

ASK: dict[str, Any] = {"model": "x", "messages": STORY, "temperature": 0, "max_tokens": 40}
CALL = ASK | {"tools": [WEATHER], "tool_choice": "REQUIRED", "max_tokens": 90}


def official(server: Server, http: httpx.Client) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="unused", base_url=server.url, httpx_client=http)


@pytest.fixture
def client(server: Server, http: httpx.Client) -> cohere.ClientV2:
    return official(server, http)


def text_of(events: list[Any]) -> str:
    return "".join(
        event.delta.message.content.text or "" for event in events if event.type == "content-delta"
    )


def test_a_whole_answer_and_a_stream(client: cohere.ClientV2) -> None:
    whole = client.chat(**ASK)
    assert whole.message.content is not None
    (part,) = whole.message.content
    assert part.type == "text"
    assert part.text
    assert whole.finish_reason in ("COMPLETE", "MAX_TOKENS")
    assert whole.usage is not None
    assert whole.usage.tokens is not None
    assert 0 < (whole.usage.tokens.output_tokens or 0) <= 40
    events: list[Any] = list(client.chat_stream(**ASK))
    assert text_of(events)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message-start", "content-start"]
    assert kinds[-2:] == ["content-end", "message-end"]
    assert events[-1].delta.usage.tokens.output_tokens > 0


def test_a_call_and_its_result(client: cohere.ClientV2) -> None:
    first = client.chat(**CALL)
    (call,) = first.message.tool_calls or []
    assert call.function is not None
    assert set(json.loads(call.function.arguments or "")) == {"city", "days"}
    assert first.finish_reason == "TOOL_CALL"
    events: list[Any] = list(client.chat_stream(**CALL))
    (start,) = [event for event in events if event.type == "tool-call-start"]
    assert start.delta.message.tool_calls.function.name == "weather"
    arguments = start.delta.message.tool_calls.function.arguments + "".join(
        event.delta.message.tool_calls.function.arguments
        for event in events
        if event.type == "tool-call-delta"
    )
    assert set(json.loads(arguments)) == {"city", "days"}
    document = {"type": "document", "document": {"data": {"sky": "blue"}}}
    history: Any = [
        *STORY,
        {"role": "assistant", "tool_plan": "Look.", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": [document]},
    ]
    assert client.chat(**ASK | {"messages": history}).message.content


@pytest.mark.parametrize("name", ["json_schema", "schema"])
def test_a_schema_shapes_the_answer(http: httpx.Client, name: str) -> None:
    """The older name was ignored."""
    shape = {"type": "json_object", name: WEATHER["function"]["parameters"]}
    answer = http.post("/v2/chat", json=ASK | {"max_tokens": 90, "response_format": shape}).json()
    assert set(json.loads(answer["message"]["content"][0]["text"])) == {"city", "days"}


def test_logprobs_where_they_are_asked_for(client: cohere.ClientV2) -> None:
    assert client.chat(**ASK, logprobs=True).logprobs


def test_errors_have_the_clients_class(client: cohere.ClientV2) -> None:
    with pytest.raises(ApiError) as caught:
        client.chat(**ASK | {"temperature": -1})
    assert caught.value.status_code == 400
    assert "temperature" in caught.value.body["message"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"k": -7}, "k"),
        ({"p": 3}, "p"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"documents": ["a fact"]}, "documents"),
        ({"thinking": {"type": "enabled", "token_budget": -1}}, "thinking.token_budget"),
        ({"tools": [WEATHER], "tool_choice": "MAYBE"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": 3}, "response_format"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(http: httpx.Client, fields: dict[str, Any], named: str) -> None:
    answer = http.post("/v2/chat", json=ASK | fields)
    assert answer.status_code == 400
    assert named in answer.json()["message"]


def test_what_means_nothing_here_refuses_nothing(http: httpx.Client) -> None:
    body = ASK | {
        "safety_mode": "OFF", "citation_options": {"mode": "OFF"}, "priority": 1,
        "thinking": {"type": "enabled", "token_budget": 99}, "strict_tools": True, "k": 3.0,
    }  # fmt: skip
    assert http.post("/v2/chat", json=body).status_code == 200


def streamed(events: list[Any]) -> list[Any]:
    encoder = CohereStream("1", events=False)
    body = encoded(encoder, events)
    found = events_of(body.removesuffix(b"data: [DONE]\n\n"))
    shown = [json.loads(event.data) for event in found]
    assert [event["type"] for event in shown] == [event.name for event in found]
    return shown


def test_contents_and_calls_begin_and_end_one_after_the_other() -> None:
    events: list[Any] = [
        ReasoningDelta(text="hm"),
        Delta(text="Let me"),
        Delta(text=" see"),
        ToolCallDelta(index=0, id="a", name="f"),
        ToolCallDelta(index=0, arguments="{}"),
        ToolCallDelta(index=1, id="b", name="g", arguments="{"),
        finished("tool_calls"),
    ]
    shown = [(event["type"], event.get("index")) for event in streamed(events)]
    assert shown == [
        ("message-start", None),
        ("content-start", 0), ("content-delta", 0), ("content-end", 0),
        ("content-start", 1), ("content-delta", 1), ("content-delta", 1), ("content-end", 1),
        ("tool-call-start", 0), ("tool-call-delta", 0), ("tool-call-end", 0),
        ("tool-call-start", 1), ("tool-call-end", 1),
        ("message-end", None),
    ]  # fmt: skip
    whole = CohereWhole("1")
    for event in events:
        whole.feed(event)
    message = json.loads(whole.end())["message"]
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Let me see"},
    ]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f", "g"]


@given(SAID)
def test_every_text_arrives_as_it_was(parts: list[tuple[Any, str]]) -> None:
    shown = streamed([kind(text=text) for kind, text in parts] + [finished()])
    contents = [e["delta"]["message"]["content"] for e in shown if e["type"] == "content-delta"]
    for kind, name in ((Delta, "text"), (ReasoningDelta, "thinking")):
        sent = "".join(text for other, text in parts if other is kind)
        assert "".join(content.get(name, "") for content in contents) == sent


def test_only_what_a_provider_wrote_is_billed() -> None:
    def leg(origin: Origin, n: int) -> Leg:
        writer = WriterId(origin=origin, model="m")
        return Leg(writer=writer, prompt_tokens=n, completion_tokens=n + 1, duration_ms=1)

    ended = finished()
    legs = (leg("local", 5), leg("cloud", 7))
    ended = replace(ended, usage=replace(ended.usage, legs=legs))
    usage = streamed([Delta(text="x"), ended])[-1]["delta"]["usage"]
    assert usage["billed_units"] == {"input_tokens": 7, "output_tokens": 8}
    alone = streamed([Delta(text="x"), finished()])[-1]["delta"]["usage"]
    assert alone["billed_units"] == {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (finished(), "COMPLETE"),
        (finished(stop="x"), "STOP_SEQUENCE"),
        (finished("length"), "MAX_TOKENS"),
        (finished("content_filter"), "ERROR_TOXIC"),
        (finished("interrupted"), "ERROR"),
        (finished("cancelled"), "ERROR"),
        (Failed(code="c", message="m"), "ERROR"),
    ],
)
def test_why_an_answer_ended(event: Any, reason: str) -> None:
    assert streamed([Delta(text="x"), event])[-1]["delta"]["finish_reason"] == reason


def test_an_answer_that_changes_its_writer_is_one_answer(fake: Fake, tmp_path: Path) -> None:
    rest = "A cloud tells the story. The end."
    fake.script(Act(text=rest, usage=Tokens(prompt=100, completion=20)))
    rule = '[[policy.rules]]\nname = "clouds"\nwords = ["cumulus"]\n'
    server = routed_server(tmp_path, fake, tables=rule)
    try:
        asked: Any = [{"role": "user", "content": "Tell me of a cumulus."}]
        with httpx.Client(timeout=60) as http:
            client = official(server, http)
            events: list[Any] = list(client.chat_stream(**ASK | {"messages": asked}))
        assert text_of(events) == rest
        assert events[-1].delta.finish_reason == "COMPLETE"
    finally:
        server.stop()
