"""Anthropic's Messages: a real server and the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import ContentBlockParam
from anthropic.types.message_create_params import MessageCreateParamsBase
from hypothesis import given
from typing_extensions import get_type_hints

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.wire.anthropic.answer import (
    MessageStream,
    MessageWhole,
    Told,
    error_body,
)
from spillover.edge_server.wire.anthropic.blocks import BILLING, MessageBody, messages_of
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    Prefilling,
    Queued,
    ReasoningDelta,
    ToolCallDelta,
)
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.sdk_examples import examples
from tests.edge_server.story import FUNCTION, STORY
from tests.edge_server.wire.encoded import SAID, encoded, finished
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens
from tests.sse_reader import events_of

ASK: dict[str, Any] = {
    "model": "claude-any", "max_tokens": 60, "messages": STORY,
}  # fmt: skip
WEATHER: Any = {
    "name": "weather",
    "description": FUNCTION["description"],
    "input_schema": FUNCTION["parameters"],
}
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
CALL = ASK | {
    "tools": [SEARCH, WEATHER], "tool_choice": {"type": "tool", "name": "weather"},
    "max_tokens": 90,
}  # fmt: skip


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:
        yield client


def test_a_whole_answer(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(**ASK)
    assert message._request_id
    (block,) = message.content
    assert block.type == "text"
    assert block.text
    assert message.id.startswith("msg_")
    assert (message.role, message.model) == ("assistant", "storyteller")
    usage = message.usage
    n_prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert n_prompt == claude.messages.count_tokens(model="x", messages=STORY).input_tokens
    assert 0 < usage.output_tokens <= 60


def test_a_stream_comes_to_the_same_as_the_client_puts_it_together(
    claude: anthropic.Anthropic,
) -> None:
    with claude.messages.stream(**ASK) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    (block,) = message.content
    assert block.type == "text"
    assert block.text
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert message.stop_reason in ("max_tokens", "end_turn")
    assert message.usage.output_tokens > 0
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 5


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_and_stop_sequences_are_told_apart(
    claude: anthropic.Anthropic, stream: bool
) -> None:
    def ending(**fields: Any) -> tuple[Any, Any]:
        if not stream:
            message = claude.messages.create(**ASK | fields)
        else:
            with claude.messages.stream(**ASK | fields) as answer:
                message = answer.get_final_message()
        return message.stop_reason, message.stop_sequence

    assert ending(max_tokens=3) == ("max_tokens", None)
    letters = list("aeiou")
    reason, sequence = ending(stop_sequences=letters)
    assert reason == "stop_sequence"
    assert sequence in letters


def test_a_call_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(**CALL)
    (call,) = message.content
    assert call.type == "tool_use"
    assert call.name == "weather"
    assert set(call.input) == {"city", "days"}
    assert message.stop_reason == "tool_use"
    with claude.messages.stream(**CALL) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        streamed = stream.get_final_message()
    assert len(parts) > 5
    (again,) = streamed.content
    assert again.type == "tool_use"
    assert again.name == "weather"
    assert set(again.input) == {"city", "days"}


def test_the_result_of_a_call_goes_into_the_next_answer(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(**CALL)
    (call,) = message.content
    assert call.type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    history: Any = [
        *STORY,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]},
    ]
    answer = claude.messages.create(**ASK | {"messages": history, "tools": [WEATHER]})
    assert answer.content


def test_a_schema_shapes_the_answer(claude: anthropic.Anthropic) -> None:
    schema = WEATHER["input_schema"]
    wanted = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    message = claude.messages.create(**ASK | {"max_tokens": 90}, extra_body=wanted)
    (block,) = message.content
    assert block.type == "text"
    assert set(json.loads(block.text)) == {"city", "days"}


def test_tokens_are_counted_without_an_answer(claude: anthropic.Anthropic) -> None:
    def count(**fields: Any) -> int:
        return claude.messages.count_tokens(model="x", messages=STORY, **fields).input_tokens

    assert count() < count(system="Be brief.") < count(system="Be brief.", tools=[WEATHER])


def test_the_model_is_listed(claude: anthropic.Anthropic) -> None:
    model, *_ = claude.models.list()
    assert (model.id, model.type, model.display_name) == ("storyteller", "model", "storyteller")
    assert claude.models.retrieve(model.id).created_at == model.created_at


def test_errors_have_the_clients_classes(claude: anthropic.Anthropic, server: Server) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"temperature"):
        claude.messages.create(**ASK, extra_body={"temperature": -1})
    with pytest.raises(anthropic.BadRequestError, match=r"is too long: \d+ tokens > \d+ max"):
        claude.messages.create(**ASK | {"messages": [{"role": "user", "content": "a b " * 2000}]})
    with pytest.raises(anthropic.NotFoundError):
        claude.post("/v1/messages/batches", cast_to=object, body={})
    body = httpx.post(f"{server.url}/v1/messages", json={}).json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


def nested(depth: int) -> list[dict[str, Any]]:
    """A search result in a search result in …"""
    content: list[dict[str, Any]] = [{"type": "text", "text": "x"}]
    for _ in range(depth):
        content = [{"type": "search_result", "content": content}]
    return content


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "base64", "data": ""}}]}]},
         "messages[0].content[0].source"),
        ({"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "content", "content": ["hi"]}}]}]},
         "messages[0].content[0].source.content"),
        ({"messages": [{"role": "user", "content": nested(300)}]}, "nested too deeply"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -5}}, "thinking.budget_tokens"),
        ({"tools": [WEATHER], "tool_choice": {"type": "must"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "no"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "thing"}}}},
         "output_config.format.schema"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(http: httpx.Client, fields: dict[str, Any], named: str) -> None:
    answer = http.post("/v1/messages", json=ASK | fields)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    if "messages" in fields:
        counted = http.post("/v1/messages/count_tokens", json=ASK | fields)
        assert counted.status_code == 400


def test_what_agents_send_is_taken(http: httpx.Client) -> None:
    """Fields and tools that mean nothing here never refuse a request."""
    blocks = [
        {"type": "text", "text": f"{BILLING} cc_version=2.1; cch=4f1a;"},
        {"type": "text", "text": "You are a coder.", "cache_control": {"type": "ephemeral"}},
    ]
    body = ASK | {
        "system": blocks, "metadata": {"user_id": "someone"}, "service_tier": "auto",
        "tools": [SEARCH, WEATHER | {"cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "adaptive", "display": "summarized"}, "max_tokens": 8,
        "context_management": {"edits": []}, "container": None, "mcp_servers": [],
        "output_config": {"effort": "low"}, "speed": "fast",
    }  # fmt: skip
    path = "/v1/messages?beta=true"
    answer = http.post(path, json=body, headers={"anthropic-beta": "x", "x-api-key": "any"})
    assert answer.status_code == 200, answer.text


def test_every_field_that_the_client_can_send_is_taken(http: httpx.Client) -> None:
    """A kind of thinking that was new was a 400."""
    for name, kind in get_type_hints(MessageCreateParamsBase).items():
        for value in [] if name == "messages" else examples(kind):
            answer = http.post("/v1/messages", json=ASK | {"max_tokens": 1, name: value})
            assert answer.status_code == 200, (name, answer.text)


def test_a_line_that_changes_does_not_spoil_the_prefix(http: httpx.Client) -> None:
    system = "You are a careful teller of tales. " * 8
    read = [
        http.post(
            "/v1/messages",
            json=ASK | {"max_tokens": 1, "system": f"{BILLING} cch={nonce};\n{system}"},
        ).json()["usage"]["cache_read_input_tokens"]
        for nonce in ("4f1a", "99b2")
    ]
    assert read[1] > 40


def conversation(content: Any, system: Any = None) -> tuple[dict[str, Any], ...]:
    bodies = decode(json.dumps(content).encode(), tuple[MessageBody, ...])
    return messages_of(system, bodies)


def test_results_come_next_to_their_calls() -> None:
    blocks = [
        {"type": "text", "text": "note"},
        {"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": "no"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "ok"}]},
        {"type": "tool_result", "tool_use_id": "c"},
    ]
    assert conversation([{"role": "user", "content": blocks}]) == (
        {"role": "tool", "tool_call_id": "a", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "b", "content": "ok"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": "note"},
    )


def test_thinking_and_calls_of_earlier_answers_are_kept() -> None:
    blocks = [
        {"type": "thinking", "thinking": "a plan", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "see."},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Brno"}},
    ]
    (turn,) = conversation([{"role": "assistant", "content": blocks}])
    assert turn["content"] == "Let me see."
    assert turn["reasoning"] == "a plan"
    (call,) = turn["tool_calls"]
    assert (call["id"], call["name"], call["arguments"]) == ("t", "weather", '{"city":"Brno"}')


@pytest.mark.parametrize("block", [*examples(ContentBlockParam)], ids=lambda b: b["type"])
def test_every_block_of_an_earlier_answer_is_taken(block: Any) -> None:
    """A result of Anthropic's servers that was an object refused all turns to come."""
    conversation([{"role": "assistant", "content": [block]}])


def test_the_name_of_a_tool_that_was_found_is_the_result() -> None:
    named = {"type": "tool_reference", "tool_name": "weather"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [named]}
    (turn,) = conversation([{"role": "user", "content": [result]}])
    assert turn["content"] == "weather"


def test_documents_of_text_are_read() -> None:
    text = {"type": "document", "title": "Notes", "source": {"type": "text", "data": "Milk."}}
    inner = [{"type": "text", "text": "Bread."}]
    parts = {"type": "document", "source": {"type": "content", "content": inner}}
    found = {"type": "search_result", "title": "Shop", "source": "x", "content": inner}
    (turn,) = conversation([{"role": "user", "content": [text, parts, found]}])
    assert turn["content"] == "Notes\nMilk.\nBread.\nShop\nBread."


TOLD = Told(id="msg_1", model="here", max_tokens=9, thinking=True, events=False)


EVENTS: list[EngineEvent] = [
    Queued(position=0, n_prompt_tokens=12),
    Prefilling(n_read=10, n_cached=10, n_prompt_tokens=12),
    ReasoningDelta(text="hm\x85"),
    ReasoningDelta(text="m"),
    Delta(text="Let me"),
    Delta(text=' "see"'),
    ToolCallDelta(index=0, id="call_a", name="weather"),
    ToolCallDelta(index=0, arguments='{"city":'),
    ToolCallDelta(index=0, arguments='"Brno"}'),
    ToolCallDelta(index=1, id="call_b", name="time"),
    finished("tool_calls"),
]


def streamed(told: Told, events: list[Any]) -> list[Any]:
    encoder = MessageStream(told)
    body = encoded(encoder, events)
    found = events_of(body)
    assert all(json.loads(event.data)["type"] == event.name for event in found)
    return [json.loads(event.data) for event in found]


def test_the_blocks_of_a_stream_are_those_of_the_whole_answer() -> None:
    start, *middle, delta, stop = streamed(TOLD, EVENTS)
    assert start["message"]["usage"]["input_tokens"] == 2
    assert start["message"]["usage"]["cache_read_input_tokens"] == 10
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert stop == {"type": "message_stop"}
    blocks: list[Any] = []
    for event in middle:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"] | {"partial": ""})
            assert event["index"] == len(blocks) - 1
        elif event["type"] == "content_block_delta":
            inner = event["delta"]
            for field in ("text", "thinking", "signature"):
                blocks[-1][field] = blocks[-1].get(field, "") + inner.get(field, "")
            blocks[-1]["partial"] += inner.get("partial_json", "")
        else:
            assert event == {"type": "content_block_stop", "index": len(blocks) - 1}
    whole = MessageWhole(TOLD)
    for told in EVENTS:
        whole.feed(told)
    expected = json.loads(whole.body())["content"]
    assert [block["type"] for block in blocks] == [block["type"] for block in expected]
    assert blocks[0]["thinking"] == expected[0]["thinking"] == "hm\x85m"
    assert "signature_delta" in [event.get("delta", {}).get("type") for event in middle]
    assert blocks[1]["text"] == expected[1]["text"] == 'Let me "see"'
    assert json.loads(blocks[2]["partial"]) == expected[2]["input"] == {"city": "Brno"}
    assert (blocks[3]["id"], blocks[3]["name"]) == ("call_b", "time")


@given(SAID)
def test_every_text_arrives_as_it_was(
    parts: list[tuple[type[Delta | ReasoningDelta], str]],
) -> None:
    events = [kind(text=text) for kind, text in parts]
    deltas = [e["delta"] for e in streamed(TOLD, events) if e["type"] == "content_block_delta"]
    for kind, field in ((Delta, "text"), (ReasoningDelta, "thinking")):
        sent = "".join(text for other, text in parts if other is kind)
        assert "".join(delta.get(field, "") for delta in deltas) == sent


def test_reasoning_that_nobody_asked_for_is_not_shown() -> None:
    told = Told(id="msg_1", model="here", max_tokens=9, thinking=False, events=False)
    kinds = {event["type"] for event in streamed(told, EVENTS[2:4] + EVENTS[-1:])}
    assert "content_block_start" not in kinds


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (finished("length", 9), "max_tokens"),
        (finished("length", 5), "model_context_window_exceeded"),
        (finished("content_filter"), "refusal"),
        (finished(stop="\r\n"), "stop_sequence"),
        (finished(), "end_turn"),
    ],
)
def test_why_an_answer_ended(event: Finished, reason: str) -> None:
    *_, delta, _stop = streamed(TOLD, [Delta(text="x"), event])
    assert delta["delta"] == {"stop_reason": reason, "stop_sequence": event.stop}


@pytest.mark.parametrize(
    "event", [finished("interrupted"), finished("cancelled"), Failed(code="c", message="m")]
)
def test_an_answer_that_breaks_off_ends_with_an_error(event: Any) -> None:
    *_, last = streamed(TOLD, [Delta(text="x"), event, Delta(text="y")])
    assert last["type"] == "error"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (413, "request_too_large"), (429, "rate_limit_error"),
        (499, "invalid_request_error"), (500, "api_error"), (501, "api_error"),
        (503, "overloaded_error"),
    ],
)  # fmt: skip
def test_errors_have_anthropics_words(status: int, kind: str) -> None:
    assert json.loads(error_body(WireError(status, "m")))["error"] == {"type": kind, "message": "m"}


def test_a_silent_stream_pings_once_it_has_begun() -> None:
    encoder = MessageStream(TOLD)
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    assert encoder.silence() == b": keep-alive\n"
    encoder.keep_alive = "event"
    assert encoder.silence() == ping
    encoder.feed(EVENTS[1])
    assert encoder.silence() == ping
    encoder.keep_alive = "comment"
    assert encoder.silence() == ping
    encoder.keep_alive = "off"
    assert encoder.silence() == b""


def test_an_answer_that_changes_its_writer_is_one_message(fake: Fake, tmp_path: Path) -> None:
    rest = " Then a cloud came by and finished the story. The end."
    fake.script(Act(rest=rest, usage=Tokens(prompt=100, completion=20)))
    server = routed_server(tmp_path, fake)
    try:
        with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:
            text, asked, last = "", False, None
            for event in client.messages.create(**ASK | {"max_tokens": 400}, stream=True):
                if event.type == "message_start":
                    body = {"id": event.message.id}
                elif event.type == "content_block_start":
                    assert (event.index, text) == (0, "")
                elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                    text += event.delta.text
                elif event.type == "message_delta":
                    last = event
                if len(text) > 60 and not asked:
                    asked = True
                    assert httpx.post(f"{server.url}/v1/handoffs", json=body).is_success
        assert text.endswith(rest.lstrip())
        assert last is not None
        assert last.delta.stop_reason == "end_turn"
        legs: Any = last.usage.model_dump()["by_leg"]
        assert [leg["origin"] for leg in legs] == ["local", "cloud"]
    finally:
        server.stop()
