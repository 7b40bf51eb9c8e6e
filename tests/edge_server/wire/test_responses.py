"""OpenAI's Responses: a real server and the official client."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from openai.types.responses import ResponseInputItemParam

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.openai.responses.answer import (
    ResponseStream,
    ResponseWhole,
    Told,
)
from spillover.edge_server.wire.openai.responses.items import Item, messages_of
from spillover.edge_server.wire.openai.responses.store import ResponseStore, StoredResponse
from spillover.edge_server.wire.openai.responses.tools import tools_in
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.events import Delta, ReasoningDelta, ToolCallDelta
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.sdk_examples import examples
from tests.edge_server.story import FUNCTION, QUESTION
from tests.edge_server.wire.encoded import SAID, encoded, finished
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens
from tests.sse_reader import events_of

ASK: dict[str, Any] = {
    "model": "gpt-any", "input": QUESTION, "temperature": 0, "max_output_tokens": 60,
}  # fmt: skip
WEATHER: Any = {"type": "function", **FUNCTION, "strict": True}
OTHERS: Any = [
    {"type": "web_search"},
    {"type": "custom", "name": "apply_patch", "format": {"type": "text"}},
    {"type": "image_generation"},
    {"type": "local_shell"},
]
CALL: dict[str, Any] = ASK | {
    "tools": [*OTHERS, WEATHER], "tool_choice": {"type": "function", "name": "weather"},
    "max_output_tokens": 90,
}  # fmt: skip


def test_a_whole_answer(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK)
    assert response.id.startswith("resp_")
    assert response.status in ("completed", "incomplete")
    assert response.output_text
    assert response.model == "storyteller"
    assert response.usage is not None
    assert 0 < response.usage.output_tokens <= 60
    n_prompt = client.responses.input_tokens.count(input=QUESTION).input_tokens
    assert response.usage.input_tokens == n_prompt


def test_a_stream_tells_all_in_order(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(**ASK, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:-1] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    text = "".join(event.delta for event in events[4:-4])
    final = events[-1].response
    assert events[-4].text == text == final.output_text
    assert events[-2].item == final.output[0]


def test_the_stream_helper_of_the_client_puts_it_together(client: openai.OpenAI) -> None:
    with client.responses.stream(**CALL) as stream:
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["function_call"]


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK | {"max_output_tokens": 3})
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_a_call_whole_and_streamed(client: openai.OpenAI) -> None:
    """Tools that nobody here can run refuse nothing."""
    response = client.responses.create(**CALL)
    (call,) = response.output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert set(json.loads(call.arguments)) == {"city", "days"}
    events: list[Any] = list(client.responses.create(**CALL, stream=True))
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert len(deltas) > 5
    assert "".join(deltas) == done.arguments
    assert events[-1].response.output[0].arguments == done.arguments


def test_a_namespace_is_flattened_and_named_in_the_call(http: httpx.Client) -> None:
    space = {"type": "namespace", "name": "sky", "description": "", "tools": [WEATHER]}
    answer = http.post("/v1/responses", json=CALL | {"tools": [space]}).json()
    assert (answer["output"][0]["name"], answer["output"][0]["namespace"]) == ("weather", "sky")


@pytest.mark.parametrize("output", ["sunny", [{"type": "input_text", "text": "sunny"}]])
def test_the_result_of_a_call_goes_into_the_next_answer(client: openai.OpenAI, output: Any) -> None:
    first = client.responses.create(**CALL)
    (call,) = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": output}
    again = client.responses.create(**ASK | {"input": [result], "previous_response_id": first.id})
    assert again.output_text
    history: Any = [{"role": "user", "content": QUESTION}, call.model_dump(), result]
    assert client.responses.create(**ASK | {"input": history}).output_text


def test_a_conversation_goes_on_from_what_is_kept(client: openai.OpenAI) -> None:
    first = client.responses.create(**ASK | {"instructions": "Be brief."})
    second = client.responses.create(
        **ASK | {"input": "And then?", "previous_response_id": first.id}
    )
    history: Any = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And then?"},
    ]
    third = client.responses.create(**ASK | {"input": history, "store": False})
    assert second.usage is not None
    assert third.usage is not None
    assert second.usage.input_tokens == third.usage.input_tokens
    again = client.responses.retrieve(second.id)
    assert again == second
    (item,) = client.responses.input_items.list(second.id)
    assert item.type == "message"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(third.id)
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    with pytest.raises(openai.NotFoundError, match="resp_nothing"):
        client.responses.create(**ASK | {"previous_response_id": "resp_nothing"})


def test_input_items_are_listed_in_pages(client: openai.OpenAI) -> None:
    turns: Any = [{"role": "user", "content": f"turn {i}"} for i in range(5)]
    response = client.responses.create(**ASK | {"input": turns, "max_output_tokens": 1})
    items: list[Any] = list(client.responses.input_items.list(response.id, limit=2, order="asc"))
    assert [item.content for item in items] == [turn["content"] for turn in turns]


def test_an_answer_in_the_background_is_found_again(client: openai.OpenAI) -> None:
    begun = client.responses.create(**ASK, background=True)
    assert begun.status in ("queued", "in_progress")
    events: list[Any] = list(client.responses.retrieve(begun.id, stream=True, starting_after=1))
    assert [event.sequence_number for event in events] == list(range(2, 2 + len(events)))
    final = events[-1].response
    assert client.responses.retrieve(begun.id) == final
    assert final.status in ("completed", "incomplete")


def test_a_stream_in_the_background_is_taken_up_where_it_broke(client: openai.OpenAI) -> None:
    ask = ASK | {"max_output_tokens": 200, "background": True, "stream": True}
    seen: list[Any] = []
    with client.responses.create(**ask) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 8:
                break
    rest = list(
        client.responses.retrieve(
            seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
        )
    )
    seen += rest
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert text == seen[-1].response.output_text


def test_an_answer_in_the_background_can_be_cancelled(client: openai.OpenAI) -> None:
    begun = client.responses.create(
        **ASK | {"max_output_tokens": 400}, background=True, extra_body={"ignore_eos": True}
    )
    cancelled = client.responses.cancel(begun.id)
    events: list[Any] = list(client.responses.retrieve(begun.id, stream=True))
    assert events[-1].response.status == cancelled.status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"


def test_one_that_is_deleted_while_it_runs_does_not_come_back(client: openai.OpenAI) -> None:
    begun = client.responses.create(
        **ASK | {"max_output_tokens": 400}, background=True, extra_body={"ignore_eos": True}
    )
    stream = client.responses.retrieve(begun.id, stream=True)
    client.responses.delete(begun.id)
    assert list(stream)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.id)


def test_a_schema_shapes_the_answer(client: openai.OpenAI) -> None:
    shape = {"type": "json_schema", "name": "where", "schema": WEATHER["parameters"]}
    text: Any = {"format": shape}
    response = client.responses.create(**ASK | {"max_output_tokens": 90, "text": text})
    assert set(json.loads(response.output_text)) == {"city", "days"}


def test_logprobs_where_they_are_asked_for(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **ASK, include=["message.output_text.logprobs"], top_logprobs=2
    )
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert all(len(record.top_logprobs) == 2 for record in part.logprobs)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [3]}]},
         "input[0].output"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"background": True, "store": False}, "store"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"metadata": {"k": "v" * 600}}, "metadata[...]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/responses", json=ASK | fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("stream", ["true", "false"])
def test_what_is_nested_too_deeply_to_be_repeated_is_refused(
    http: httpx.Client, stream: str
) -> None:
    """It was a 500."""
    tool = '{"type": "custom", "parameters": %s}' % ('{"x": ' * 980 + "1" + "}" * 980)
    body = f'{{"input": "x", "stream": {stream}, "tools": [{tool}]}}'
    headers = {"Content-Type": "application/json"}
    assert http.post("/v1/responses", content=body, headers=headers).status_code == 400


def test_what_is_nested_so_deeply_that_it_is_just_read_breaks_no_stream(server: Server) -> None:
    """It broke off at its end, where the size of what is kept was measured."""
    head = {"Content-Type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        for depth in range(960, 1000, 2):
            item = f'{{"type": "mcp_call", "arguments": {"[" * depth}{"]" * depth}}}'
            asked = f'[{{"role": "user", "content": "x"}}, {item}]'
            body = f'{{"stream": true, "max_output_tokens": 1, "input": {asked}}}'
            connection.request("POST", "/v1/responses", body, head)
            response = connection.getresponse()
            assert response.status in (200, 400)
            assert response.read()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"), ("GET", "/v1/responses/resp_1/input_items"),
    ],
)  # fmt: skip
def test_what_is_not_kept_is_not_found(http: httpx.Client, method: str, path: str) -> None:
    assert http.request(method, path, json={}).status_code == 404


def test_only_an_answer_in_the_background_is_streamed_or_cancelled_later(
    client: openai.OpenAI,
) -> None:
    response = client.responses.create(**ASK | {"max_output_tokens": 1})
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(response.id, stream=True)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(response.id)


def items(*objects: dict[str, Any]) -> list[dict[str, Any]]:
    return messages_of(decode(json.dumps(objects).encode(), tuple[Item, ...]))


def test_items_of_one_answer_become_one_message() -> None:
    turns = items(
        {"role": "user", "content": "q"},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "why"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": {"n": 2}},
        {"type": "reasoning", "id": "rs2", "summary": [], "content": [
            {"type": "reasoning_text", "text": "now"}]},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": "c"},
    )  # fmt: skip
    assert [turn["role"] for turn in turns] == [
        "user", "assistant", "tool", "tool", "assistant", "assistant",
    ]  # fmt: skip
    answer = turns[1]
    assert (answer["reasoning"], answer["content"]) == ("why", "a")
    assert [call["id"] for call in answer["tool_calls"]] == ["c1", "c2"]
    assert answer["tool_calls"][1]["arguments"] == '{"input":"x"}'
    assert [turn["content"] for turn in turns[2:4]] == ["1", '{"n":2}']
    assert turns[4]["reasoning"] == "now"


@pytest.mark.parametrize("item", [*examples(ResponseInputItemParam)], ids=lambda i: i.get("type"))
def test_every_item_that_the_client_can_send_is_taken(item: Any) -> None:
    """A search for tools, whose arguments are an object, refused all turns to come."""
    (read,) = decode(json.dumps([item]).encode(), tuple[Item, ...])
    list(tools_in([read]))
    try:
        messages_of([] if read.is_reference else [read])
    except WireError as error:
        assert any(word in str(error) for word in ("image_url", "file"))  # noqa: PT017


def test_an_item_that_is_only_named_is_the_one_that_is_kept(client: openai.OpenAI) -> None:
    """It was left out in silence: the result of a call stood there without the call."""
    (call,) = client.responses.create(**CALL).output
    assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    lengths = set()
    for named in (call.model_dump(), {"type": "item_reference", "id": call.id}, {"id": call.id}):
        history: Any = [{"role": "user", "content": QUESTION}, named, result]
        usage = client.responses.input_tokens.count(input=history)
        lengths.add(usage.input_tokens)
    assert len(lengths) == 1
    unknown: Any = [{"type": "item_reference", "id": "fc_nothing"}]
    with pytest.raises(openai.NotFoundError, match="fc_nothing"):
        client.responses.create(**ASK | {"input": unknown})


def test_tools_may_come_with_the_items(http: httpx.Client) -> None:
    added = {"type": "additional_tools", "role": "developer", "tools": [*OTHERS, WEATHER]}
    items = [added, {"role": "user", "content": QUESTION}]
    for tools in ([], [WEATHER]):
        answer = http.post("/v1/responses", json=CALL | {"input": items, "tools": tools}).json()
        assert answer["output"][0]["name"] == "weather"


def told(store: ResponseStore | None = None, *, runs: bool = False) -> Told:
    stored = StoredResponse(id="resp_1", owner="me", body=b"", asked=(), runs=runs)
    return Told(
        id="1", fields={"model": "here"}, namespaces={}, events=False, logprobs=False,
        store=store, stored=stored,
    )  # fmt: skip


def streamed(events: list[Any], answer: Told) -> list[Any]:
    encoder = ResponseStream(answer)
    body = encoded(encoder, events)
    found = events_of(body)
    shown = [json.loads(event.data) for event in found]
    assert [event["type"] for event in shown] == [event.name for event in found]
    assert [event["sequence_number"] for event in shown] == list(range(len(shown)))
    return shown


EVENTS: list[Any] = [
    ReasoningDelta(text="hm"),
    ReasoningDelta(text="m"),
    Delta(text="Let me"),
    Delta(text=" see"),
    ToolCallDelta(index=0, id="call_a", name="weather"),
    ToolCallDelta(index=0, arguments='{"city":"Brno"}'),
    ToolCallDelta(index=1, id="call_b", name="time"),
    finished("tool_calls"),
]


def test_the_items_of_a_stream_are_those_of_the_whole_answer() -> None:
    shown = streamed(EVENTS, told())
    done = [event["item"] for event in shown if event["type"] == "response.output_item.done"]
    assert shown[-1]["response"]["output"] == done
    whole = ResponseWhole(told())
    for event in EVENTS:
        whole.feed(event)
    answer = json.loads(whole.end())
    assert answer["output"] == done
    assert [item["type"] for item in done] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    assert done[0]["content"] == [{"type": "reasoning_text", "text": "hmm"}]
    assert [item.get("call_id") for item in done[2:]] == ["call_a", "call_b"]
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


@given(SAID)
def test_every_text_arrives_as_it_was(parts: list[tuple[Any, str]]) -> None:
    shown = streamed([kind(text=text) for kind, text in parts] + [finished()], told())
    for kind, name in ((Delta, "output_text"), (ReasoningDelta, "reasoning_text")):
        sent = "".join(text for other, text in parts if other is kind)
        event = f"response.{name}"
        assert "".join(e["delta"] for e in shown if e["type"] == f"{event}.delta") == sent
        assert "".join(e["text"] for e in shown if e["type"] == f"{event}.done") == sent


def test_a_silent_stream_shows_life_as_the_owner_wants() -> None:
    """It got comments where the owner wants events."""
    encoder = ResponseStream(told())
    assert encoder.silence() == b": keep-alive\n"
    encoder.keep_alive = "event"
    (event,) = events_of(encoder.silence())
    assert json.loads(event.data) == {"type": event.name} == {"type": "keepalive"}
    numbers = [json.loads(event.data)["sequence_number"] for event in events_of(encoder.open())]
    assert numbers == [0, 1]


def test_half_a_character_breaks_nothing() -> None:
    shown = streamed([Delta(text="a\ud83d"), finished()], told(ResponseStore(9)))
    assert shown[-1]["response"]["output"][0]["content"][0]["text"] == "a�"


@pytest.mark.parametrize(
    ("event", "name", "status"),
    [
        (finished("interrupted"), "response.failed", "failed"),
        (finished("cancelled"), "response.incomplete", "cancelled"),
        (Failed(code="engine_error", message="m"), "response.failed", "failed"),
        (finished("length"), "response.incomplete", "incomplete"),
        (finished("content_filter"), "response.incomplete", "incomplete"),
    ],
)
def test_how_an_answer_may_end(event: Any, name: str, status: str) -> None:
    store = ResponseStore(9)
    last = streamed([Delta(text="x"), event], told(store))[-1]
    assert (last["type"], last["response"]["status"]) == (name, status)
    assert last["response"]["output"][0]["content"][0]["text"] == "x"
    assert json.loads(store.get("resp_1", "me").body)["status"] == status


def test_what_is_kept_is_bounded_and_has_one_owner() -> None:
    store = ResponseStore(2, max_bytes=10_000)
    for number in ("a", "b", "c"):
        store.put(StoredResponse(id=number, owner="me", body=b"x" * 100, asked=()))
    with pytest.raises(WireError):
        store.get("a", "me")
    with pytest.raises(WireError):
        store.get("b", "you")
    store.get("b", "me")
    store.put(StoredResponse(id="large", owner="me", body=b"x" * 9_950, asked=()))
    with pytest.raises(WireError):
        store.get("c", "me")
    with pytest.raises(WireError):
        store.get("b", "me")
    store.put(StoredResponse(id="larger", owner="me", body=b"x" * 20_000, asked=()))
    with pytest.raises(WireError):
        store.get("larger", "me")
    ResponseStore(0).put(StoredResponse(id="a", owner="me", body=b"", asked=()))


def test_a_number_beyond_64_bits_in_a_result_is_kept(http: httpx.Client) -> None:
    """It was answered, and at the end lost with the whole response."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": {"n": 2**70}}
    reply = http.post("/v1/responses", json={"input": [call, result], "max_output_tokens": 3})
    assert reply.status_code == 200, reply.text
    items = http.get(f"/v1/responses/{reply.json()['id']}/input_items").json()["data"]
    assert 2**70 in [(item.get("output") or {}).get("n") for item in items]


def test_a_conversation_with_a_circle_or_a_gap_is_refused() -> None:
    store = ResponseStore(9)
    store.put(StoredResponse(id="a", owner="me", body=b"", asked=(), previous="a"))
    store.put(StoredResponse(id="b", owner="me", body=b"", asked=(), previous="gone"))
    for last in ("a", "b"):
        with pytest.raises(WireError) as caught:
            store.conversation(last, "me")
        assert caught.value.param == "previous_response_id"


def test_an_answer_that_changes_its_writer_is_one_response(fake: Fake, tmp_path: Path) -> None:
    rest = " Then a cloud came by and finished the story. The end."
    fake.script(Act(rest=rest, usage=Tokens(prompt=100, completion=20)))
    server: Server = routed_server(tmp_path, fake)
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
            text, asked, last = "", False, None
            response_id = ""
            for event in client.responses.create(**ASK | {"max_output_tokens": 400}, stream=True):
                last = event
                if event.type == "response.created":
                    response_id = event.response.id
                elif event.type == "response.output_text.delta":
                    text += event.delta
                if len(text) > 60 and not asked:
                    asked = True
                    body = {"id": response_id}
                    assert httpx.post(f"{server.url}/v1/handoffs", json=body).is_success
            assert last is not None
            assert last.type == "response.completed"
            assert last.response.output_text == text
            assert text.endswith(rest.lstrip())
            assert last.response.model == "cloud-model"
            again = client.responses.retrieve(response_id)
            assert again.output_text == text
    finally:
        server.stop()


def test_no_text_is_taken_back_that_stays_in_the_response(fake: Fake, tmp_path: Path) -> None:
    """With events on, text was taken back, while the answer and what is kept still had it."""
    fake.script(Act(rest=" A cloud came by.", usage=Tokens(prompt=100, completion=20)))
    server: Server = routed_server(tmp_path, fake)
    wanted = {"events": True, "mode": "restart"}
    body = {"input": "Tell me a story.", "stream": True, "spillover": wanted, "ignore_eos": True}
    try:
        shown: list[Any] = []
        response = httpx.stream("POST", f"{server.url}/v1/responses", json=body, timeout=60)
        with response as stream:
            for line in stream.iter_lines():
                if not line.startswith("data: "):
                    continue
                shown.append(json.loads(line[6:]))
                texts = [e["delta"] for e in shown if e["type"] == "response.output_text.delta"]
                if len(texts) == 5 and "delta" in shown[-1]:
                    asked = {"id": shown[0]["response"]["id"]}
                    assert httpx.post(f"{server.url}/v1/handoffs", json=asked).is_success
        kinds = [event["type"] for event in shown]
        assert "spillover.handoff" in kinds
        assert "spillover.replace" not in kinds
        text = shown[-1]["response"]["output"][0]["content"][0]["text"]
        assert text == "".join(texts)
        assert text.endswith("A cloud came by.")
    finally:
        server.stop()
