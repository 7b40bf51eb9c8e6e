"""The endpoint as clients see it: a real server process, real sockets, the official client."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import httpx
import openai
import pytest
from flask import Request

from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.security import Gatekeeper
from spillover.edge_server.wire.errors import WireError
from tests.edge_server.conftest import Server
from tests.edge_server.places import all_idle, wait_for_the_places
from tests.edge_server.story import STORY
from tests.waiting import wait_until


def test_the_openai_client_streams(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="storyteller",
            messages=STORY,
            stream=True,
            temperature=0,
            max_tokens=12,
            stream_options={"include_usage": True},
        )
    )
    first, *deltas, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", None)
    assert all(c.choices[0].delta.role is None and c.choices[0].delta.content for c in deltas)
    assert last.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 12
    assert len({c.id for c in chunks}) == 1
    assert first.id.startswith("chatcmpl-")
    assert (first.system_fingerprint or "").startswith("b")


def test_streamed_and_whole_answers_are_equal(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {
        "model": "storyteller", "messages": STORY, "seed": 4, "max_tokens": 40, "n": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**ask)
    streamed = ["", ""]
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    # Later words may hang on a near tie: the slices of a prompt depend on the moment.
    texts = [choice.message.content or "" for choice in whole.choices]
    assert [text[:36] for text in texts] == [text[:36] for text in streamed]
    assert streamed[0] != streamed[1]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 80


def test_chat_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="storyteller", messages=STORY, temperature=0, max_tokens=3, logprobs=True,
        top_logprobs=2,
    )  # fmt: skip
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    tokens = logprobs.content or []
    assert "".join(t.token for t in tokens) == answer.choices[0].message.content
    assert all(len(t.top_logprobs) == 2 for t in tokens)


def test_text_completions_take_text_and_token_ids(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    ids = http.post("/tokenize", json={"content": "Once upon"}).json()["tokens"]
    from_text, from_ids = (
        client.completions.create(model="m", prompt=prompt, temperature=0, max_tokens=8)
        for prompt in ("Once upon", ids)
    )
    assert from_text.choices[0].text == from_ids.choices[0].text != ""
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"content": "Once upon"}


def test_a_prompt_beyond_the_context_is_a_400_before_any_byte_of_the_stream(
    http: httpx.Client,
) -> None:
    body = {"messages": [{"role": "user", "content": "a b " * 2000}], "stream": True}
    response = http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] > error["n_ctx"] == 1024


def nested(depth: int) -> str:
    """An object in an object in …: 600 ended the worker."""
    return '{"x": ' * depth + "1" + "}" * depth


USER = '{"role": "user", "content": "x"}'
MALFORMED = [
    ("", None),
    ("{", None),
    ("[]", None),
    ("\xff", None),
    ("[" * 10_000, None),
    ("{}", "messages"),
    ('{"messages": []}', "messages"),
    ('{"messages": "x"}', "messages"),
    ('{"messages": [{"role": "king", "content": "x"}]}', "messages[0].role"),
    ('{"messages": [{"content": "x"}]}', "role"),
    ('{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
    ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content[0]"),
    *(
        (f'{{"messages": [{USER}], {field}}}', name)
        for field, name in [
            ('"temperature": "hot"', "temperature"),
            ('"temperature": -1', "temperature"),
            ('"top_p": 7', "top_p"),
            ('"top_k": 1.5', "top_k"),
            ('"n": true', "n"),
            ('"n": 1000', "n"),
            ('"max_tokens": 0', "max_tokens"),
            ('"max_tokens": 1e400', None),
            ('"stop": [""]', "stop"),
            ('"stop": 3', "stop"),
            ('"logit_bias": {"x": 1}', "logit_bias"),
            ('"logit_bias": {"99999": 1}', "logit_bias"),
            ('"logit_bias": {"1": 101}', "logit_bias"),
            ('"logprobs": true, "top_logprobs": 21', "top_logprobs"),
            ('"max_completion_tokens": 0', "max_completion_tokens"),
            ('"max_completion_tokens": -5', "max_completion_tokens"),
            ('"repetition_penalty": 11', "repetition_penalty"),
            ('"chat_template_kwargs": {"x": 18446744073709551616}', "chat_template_kwargs"),
            *((f'"chat_template_kwargs": {nested(depth)}', None) for depth in (600, 900, 980)),
            ('"n": 9', "n"),  # more than this server lets run and wait
            ('"top_logprobs": 2', "top_logprobs"),
            ('"stream": "yes"', "stream"),
            ('"response_format": {"type": "xml"}', "response_format.type"),
            ('"tools": [{}]', "tools"),
            ('"grammar": "root ::= x"', "grammar"),
            ('"json_schema": {"not": {}}', "json_schema"),
            ('"guided_regex": "("', "guided_regex"),
        ]
    ),
]


@pytest.mark.parametrize(("body", "param"), MALFORMED)
def test_a_malformed_body_is_a_400_that_names_the_field(
    http: httpx.Client, body: str, param: str | None
) -> None:
    response = http.post(
        "/v1/chat/completions",
        content=body.encode("latin-1"),
        headers={"Content-Type": "application/json"},
    )
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["message"]
    assert param is None or param in (error["param"] or "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "[::1].evil.example"}, 403),
        ({"Host": "localhost:evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 200),  # LiteLLM asks Ollama's API like that
        ({"Content-Type": "", "Origin": "http://127.0.0.1"}, 403),
        ({"Content-Type": "", "Sec-Fetch-Site": "same-origin"}, 415),
        ({"Host": "LOCALHOST.:1"}, 200),
    ],
)
def test_web_pages_of_others_may_not_ask(
    http: httpx.Client, headers: dict[str, str], status: int
) -> None:
    content = json.dumps({"messages": STORY, "max_tokens": 1})
    headers = {"Content-Type": "application/json", **headers}
    given = {name: text for name, text in headers.items() if text}
    response = http.post("/v1/chat/completions", content=content, headers=given)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("bound", "host", "may"),
    [
        ("0.0.0.0", "192.168.1.20:8080", True),
        ("::", "[fd00::20]:8080", True),
        ("0.0.0.0", socket.gethostname(), True),
        ("0.0.0.0", f"{socket.gethostname()}.local:8080", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "192.168.1.20.evil.example", False),
        ("127.0.0.1", "192.168.1.20:8080", False),
    ],
)
def test_other_machines_ask_by_the_address_or_the_name_of_this_one(
    bound: str, host: str, may: bool
) -> None:
    # With 0.0.0.0 they got a 403 until its owner had listed all of them.
    gate = Gatekeeper(Settings(hosts=(bound,), api_keys=("a-key-for-all",)))
    asked = Request({"REQUEST_METHOD": "GET", "PATH_INFO": "/health", "HTTP_HOST": host})
    with contextlib.nullcontext() if may else pytest.raises(WireError, match="not allowed here"):
        gate.check(asked)


def test_unknown_paths_and_methods_answer_in_the_same_shape(http: httpx.Client) -> None:
    for response, status in (
        (http.get("/nope"), 404),
        (http.get("/v1/chat/completions"), 405),
        (http.get("/metrics"), 501),
    ):
        assert response.status_code == status
        assert response.json()["error"]["message"]


def test_a_head_request_gets_the_head_of_the_answer(http: httpx.Client) -> None:
    head, whole = http.head("/health"), http.get("/health")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]


def test_top_k_minus_1_switches_it_off(http: httpx.Client) -> None:
    ask = {"messages": STORY, "max_tokens": 8, "seed": 5, "temperature": 1.5}
    off, zero = (
        http.post("/v1/chat/completions", json={**ask, "top_k": top_k}).json()["choices"]
        for top_k in (-1, 0)
    )
    assert off == zero


def test_models_and_health(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/v1/models").json()["data"][0]["id"] == "storyteller"


def _ask_raw(server: Server, body: dict[str, Any]) -> socket.socket:
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.sendall(head.encode() + content)
    return sock


def test_a_client_that_leaves_frees_its_slot(server: Server, http: httpx.Client) -> None:
    # A whole answer: nothing is written meanwhile, so only the closed connection tells.
    endless = {"messages": STORY, "ignore_eos": True, "n": 4}
    with _ask_raw(server, endless):
        wait_until(lambda: not all_idle(http))
    wait_until(lambda: all_idle(http))


def test_a_silent_stream_is_kept_alive_by_comments(server: Server, http: httpx.Client) -> None:
    endless = {"messages": STORY, "ignore_eos": True, "stream": True}
    slow = {**endless, "n": 7, "logprobs": True, "top_logprobs": 20}
    with _ask_raw(server, slow) as running:
        assert running.recv(1)  # it holds all places, and will for more than a second
        with _ask_raw(server, endless) as waiting:
            received = b""
            while b": keep-alive\n" not in received and b"[DONE]" not in received:
                received += waiting.recv(65536)
            assert b"text/event-stream" in received
            assert b": keep-alive\n" in received
    wait_for_the_places(http)


def test_a_stream_shows_progress_on_request(http: httpx.Client) -> None:
    body = {"messages": STORY, "stream": True, "max_tokens": 1, "return_progress": True}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    text = response.text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    progress = [c["prompt_progress"] for c in chunks if "prompt_progress" in c]
    assert progress[-1]["processed"] == progress[-1]["total"] > 0
    assert text.endswith("data: [DONE]\n\n")
    assert "timings" in chunks[-1]


@pytest.mark.parametrize("by_header", [True, False])
def test_an_answer_of_the_background_gives_way_and_goes_on(
    http: httpx.Client, *, by_header: bool
) -> None:
    headers = {"X-Spillover-Priority": "background"} if by_header else {}
    body = {"messages": STORY, "max_tokens": 300, "ignore_eos": True, "stream": True}
    body |= {} if by_header else {"priority": "background"}
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if '"content":"' in line)
        assert http.get("/v1/device").json()["n_background"] == 1
        other = {"messages": STORY, "max_tokens": 5, "priority": 7}
        assert http.post("/v1/chat/completions", json=other).status_code == 200
        assert list(lines)[-2] == "data: [DONE]"
    assert http.get("/v1/device").json()["n_background"] == 0


@pytest.mark.parametrize("by_header", [True, False])
def test_an_unknown_priority_is_named(http: httpx.Client, *, by_header: bool) -> None:
    headers = {"X-Spillover-Priority": "high"} if by_header else {}
    body = {"messages": STORY} | ({} if by_header else {"priority": "high"})
    answer = http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 400
    named = "X-Spillover-Priority" if by_header else "priority"
    assert answer.json()["error"]["param"] == named
