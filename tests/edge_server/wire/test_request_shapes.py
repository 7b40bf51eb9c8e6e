"""Bodies as clients really write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs

from spillover.edge_server.wire.dialect import arguments_object
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import timings
from spillover.edge_server.wire.openai.chat import ChatBody, chat_request
from spillover.edge_server.wire.request_body import decode, model_named
from spillover.runtime.events import Finished, Measures, Timings, Usage
from spillover.runtime.request import AnswerDefaults, ToolCall


def content_of(raw: bytes) -> str:
    return chat_request(decode(raw, ChatBody), AnswerDefaults()).messages[0].content


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([{"type": "text", "text": "hi"}], "hi"),
        ([{"type": "input_text", "text": "hi"}], "hi"),
        ([{"type": "output_text", "text": "hi", "annotations": []}], "hi"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([{"type": "text", "text": "What is"}, {"type": "text", "text": "this"}], "What is\nthis"),
        ([], ""),
    ],
)
def test_every_part_of_text_is_read(role: str, parts: Any, content: str) -> None:
    """Other parts than text were a 400, and two of them grew together."""
    body = {"messages": [{"role": role, "content": parts}]}
    assert content_of(json.dumps(body).encode()) == content


@pytest.mark.parametrize(
    "part", [{"type": "input_audio"}, {"type": "text"}, {"type": "refusal", "text": "x"}]
)
def test_a_part_without_text_is_named(part: Any) -> None:
    body = {"messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(WireError) as caught:
        content_of(json.dumps(body).encode())
    assert caught.value.param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (rb"cut \ud83d", "cut \ufffd"),
        (rb"cut \ud83d more", "cut \ufffd more"),
        (rb"\udE00 cut", "\ufffd cut"),
        (rb"\uD83d\ud83D\ude00", "\ufffd\U0001f600"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (rb"\\\ud83d\n\"", '\\\ufffd\n"'),
    ],
)
def test_half_a_pair_is_one_unknown_character(text: bytes, content: str) -> None:
    """It was a 400: clients cut texts inside an emoji."""
    assert content_of(b'{"messages":[{"role":"user","content":"%b"}]}' % text) == content


@pytest.mark.parametrize("raw", [rb'{"messages":[{"role":"user","content":"\ud83d', rb'"\ud83"'])
def test_half_a_body_is_an_error(raw: bytes) -> None:
    with pytest.raises(WireError, match="JSON"):
        content_of(raw)


@pytest.mark.parametrize("text", [rb"cut \ud83d", b"whole"])
def test_the_model_is_found_beside_any_text(text: bytes) -> None:
    """Beside half a pair another model answered."""
    body = b'{"messages":[{"role":"user","content":"%b"}],"model":"small"}' % text
    assert model_named(body) == "small"
    assert model_named(body[:-1]) == ""


def test_a_byte_order_mark_is_read_over() -> None:
    assert content_of(b'\xef\xbb\xbf{"messages":[{"role":"user","content":"hi"}]}') == "hi"


def test_the_prompt_ends_with_the_last_message_when_the_client_wants(http: httpx.Client) -> None:
    """The field had no effect."""
    n_tokens = {}
    for opens in (True, False, None):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        answer = http.post("/v1/chat/completions", json=body | {"add_generation_prompt": opens})
        n_tokens[opens] = answer.json()["usage"]["prompt_tokens"]
    assert n_tokens[False] < n_tokens[True] == n_tokens[None]


@pytest.mark.parametrize(("n", "rate"), [(0, 0), (1, 0), (2, 10), (11, 100)])
def test_the_first_token_takes_no_step(n: int, rate: float) -> None:
    """One token had a rate of thousands per second."""
    found = timings(
        Finished(
            reason="length",
            usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=n),
            timings=Timings(queue_ms=0, prefill_ms=1, decode_ms=100),
        )
    )
    assert found["predicted_per_second"] == rate


def test_drafts_are_counted_where_there_were_any() -> None:
    times = Timings(queue_ms=0, prefill_ms=1, decode_ms=100)
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=9)
    drafted = structs.replace(times, n_drafted=7, n_accepted=5)
    assert "draft_n" not in timings(Measures(usage=usage, timings=times))
    found = timings(Measures(usage=usage, timings=drafted))
    assert (found["draft_n"], found["draft_n_accepted"]) == (7, 5)


def test_the_list_of_models_tells_how_much_a_request_may_hold(http: httpx.Client) -> None:
    entry, *_ = http.get("/v1/models").json()["data"]
    assert entry["context_length"] == entry["max_model_len"] == entry["meta"]["n_ctx"]


def prompt_of(http: httpx.Client, **fields: Any) -> str:
    messages = [{"role": "user", "content": "Hi"}]
    answer = http.post("/apply-template", json={"messages": messages} | fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt"])


def test_the_prompt_is_shown_without_an_answer(http: httpx.Client) -> None:
    closed = prompt_of(http, add_generation_prompt=False)
    assert "Hi" in closed
    assert prompt_of(http).startswith(closed)
    assert prompt_of(http) != closed
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    assert "weather" in prompt_of(http, tools=[tool])
    long = "a b" * 50_000
    assert long in prompt_of(http, messages=[{"role": "user", "content": long}])


def test_a_conversation_without_a_prompt_is_refused_as_for_an_answer(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"tools": 1}}
    error = http.post("/apply-template", json=body).json()["error"]
    assert error["code"] == 400
    assert error["param"] == "chat_template_kwargs"


def test_the_prompt_is_shown_beside_an_answer(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "verbose": True}
    whole = http.post("/v1/chat/completions", json=body).json()
    assert whole["__verbose"]["prompt"] == prompt_of(http)
    assert whole["__verbose"]["generation_settings"]["n_predict"] == 2
    stream = http.post("/v1/chat/completions", json=body | {"stream": True}).text
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    (shown,) = [chunk for chunk in chunks if "__verbose" in chunk]
    assert shown["__verbose"]["prompt"] == whole["__verbose"]["prompt"]
    assert shown["choices"][0]["finish_reason"]


def test_the_server_tells_what_it_serves(http: httpx.Client) -> None:
    props = http.get("/props").json()
    assert Path(props["model_path"]).is_file()
    assert "messages" in props["chat_template"]
    assert props["bos_token"]
    assert props["eos_token"]


@pytest.mark.parametrize(
    ("prefills", "fields", "continues"),
    [
        (False, {}, False),
        (False, {"continue_final_message": True}, True),
        (True, {}, True),
        (True, {"continue_final_message": False}, False),
        (True, {"add_generation_prompt": True}, False),
        (True, {"messages": [{"role": "user", "content": "x"}]}, False),
    ],
)
def test_a_last_message_of_the_assistant_is_history_unless_asked_otherwise(
    prefills: bool, fields: dict[str, Any], continues: bool
) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "So "}]
    body = decode(json.dumps({"messages": messages} | fields).encode(), ChatBody)
    request = chat_request(body, AnswerDefaults(prefill_assistant=prefills))
    assert request.continue_final_message == continues


@pytest.mark.parametrize("number", ["12.0", "1.2e1", "12E0", "1200.0e-2"])
def test_an_integer_may_be_written_as_a_float(http: httpx.Client, number: str) -> None:
    """As clients in JavaScript, Kotlin and PHP do."""
    said = '"max_tokens: 512.0, \\"1e3\\" and 7.0"'
    body = f'{{"messages": [{{"role": "user", "content": {said}}}], "max_tokens": {number}}}'
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert http.post(path, content=body, headers=headers).status_code == 200, path
    prompt = http.post("/apply-template", content=body, headers=headers).json()["prompt"]
    assert 'max_tokens: 512.0, "1e3" and 7.0' in prompt


@pytest.mark.parametrize("number", ["12.5", "1e-1", "1e400"])
def test_a_number_that_is_none_is_a_400_that_names_it(http: httpx.Client, number: str) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "hi"}}], "max_tokens": {number}}}'
    headers = {"Content-Type": "application/json"}
    answer = http.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"


def test_a_long_number_behind_a_wrong_one_is_read_once() -> None:
    """It was read again from each of its digits on: for hours, in which no stream went on."""
    body = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1.5, "x": %d}'
    with pytest.raises(WireError, match="max_tokens"):
        decode(body.replace(b"%d", b"1" * 900_000), ChatBody)


def test_half_a_pair_in_a_call_does_not_empty_its_arguments() -> None:
    """As clients of Ollama, Anthropic and Gemini get them: as an object."""
    call = ToolCall(id="c", name="n", arguments=r'{"a": "\ud83d", "b": 1}')
    assert arguments_object(call) == {"a": "\ufffd", "b": 1}
