"""Connections that break, on real sockets: nothing is lost or sent twice."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.edge_server.conftest import Server
from tests.edge_server.raw_http import connect, post
from tests.edge_server.resume.answer import Client
from tests.edge_server.resume.connecting import (
    CHAT,
    LONG,
    RESUME,
    begin,
    name_of,
    place,
    take,
    take_up,
    whole,
)
from tests.edge_server.story import STORY

SHORT: dict[str, Any] = {"messages": STORY, "temperature": 0, "max_tokens": 20}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that answers the same request twice alike."""
    server = Server(tmp_path_factory.mktemp("home"), deterministic="true")
    yield server
    assert server.stop() == 0


def test_an_answer_cut_at_any_event_comes_whole(server: Server) -> None:
    text = whole(server, SHORT)
    client, n = Client(), 0
    while client.end is None or client.last >= n:
        n, client = n + 1, Client()
        with begin(server, SHORT) as response:
            name = name_of(response)
            take(client, response.iter_raw(), until=lambda: client.last == n)  # noqa: B023  # used at once
        if client.end is None:
            with take_up(server, name, client.last) as response:
                take(client, response.iter_raw())
        assert client.text == text
        assert client.end == "[DONE]"
        with take_up(server, name, client.last) as response:
            assert response.status_code == 204
    assert n > 20


def test_a_stream_that_has_ended_cut_at_many_bytes_comes_whole(server: Server) -> None:
    text = whole(server, SHORT)
    with begin(server, SHORT) as response:
        name = name_of(response)
        response.read()
    body = httpx.get(place(server, name)).content
    for n_bytes in range(0, len(body), 173):
        client, received = Client(), b""
        with take_up(server, name, 0) as response:
            for part in response.iter_raw():
                received += part
                if len(received) > n_bytes:
                    break
        client.take(received[:n_bytes])
        with take_up(server, name, client.last) as response:
            client.take(response.read())
        assert client.text == text


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_whose_connections_break_all_the_time_comes_whole(
    server: Server, seed: int
) -> None:
    chance = random.Random(seed)
    body = {**LONG, "max_tokens": 300}
    client = Client()
    with begin(server, body) as response:
        name = name_of(response)
    # Nothing of it was read: at once the connection breaks.
    while client.end is None:
        goal = client.last + chance.choice([1, 2, 7, 40])
        with take_up(server, name, client.last) as response:
            take(client, response.iter_raw(), until=lambda: client.last >= goal)  # noqa: B023
    assert client.text == whole(server, body)


def test_a_reset_connection_is_a_broken_connection(server: Server) -> None:
    body = {**LONG, "max_tokens": 200}
    with connect(server) as sock:
        request = post(CHAT, {**body, "stream": True})
        sock.sendall(request.replace(b"\r\n\r\n", b"\r\nX-Spillover-Resume: 1\r\n\r\n", 1))
        received = b""
        while received.count(b"\nid: ") < 5:
            received += sock.recv(4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    name = received.partition(b"x-spillover-stream: ")[2][:32].decode()
    client = Client()
    with take_up(server, name, 0) as response:
        take(client, response.iter_raw())
    assert client.text == whole(server, body)


def test_all_who_follow_a_stream_get_the_same_events(server: Server) -> None:
    def follow(name: str) -> bytes:
        return httpx.get(place(server, name), params={"after": 0}, timeout=60).content

    with ThreadPoolExecutor(3) as pool, begin(server, {**LONG, "max_tokens": 200}) as response:
        others = [pool.submit(follow, name_of(response)) for _ in range(3)]
        first = response.read()
        assert first.endswith(b"data: [DONE]\n\n")
        for other in others:
            assert other.result() == first


def test_the_openai_client_resumes_by_the_number_of_its_chunks(server: Server) -> None:
    body: Any = {**SHORT, "max_tokens": 200, "extra_body": {"ignore_eos": True}}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        text, n = "", 0
        stream = client.chat.completions.create(
            model="any", stream=True, extra_headers=RESUME, **body
        )
        name = stream.response.headers["X-Spillover-Stream"]
        for chunk in stream:
            n += 1
            text += chunk.choices[0].delta.content or ""
            if n == 30:
                break
        stream.close()
        rest = client.get(
            f"/streams/{name}",
            cast_to=ChatCompletionChunk,
            options={"params": {"after": n}},
            stream=True,
            stream_cls=openai.Stream[ChatCompletionChunk],
        )
        text += "".join(chunk.choices[0].delta.content or "" for chunk in rest)
    assert text == whole(server, {**LONG, "max_tokens": 200})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": STORY, "n": 2, "seed": 3, "spillover": {"resumable": True}}),
        ("/v1/completions", {"prompt": ["Once", "A dog", "Ruby"], "temperature": 0, "echo": True}),
        ("/v1/completions", {"prompt": "Once", "temperature": 0, "logprobs": 2}),
        ("/completion", {"prompt": "Once", "temperature": 0}),
    ],
)
def test_every_dialect_and_any_number_of_choices_can_be_taken_up(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    body = {**body, "max_tokens": 24, "ignore_eos": True}
    client, complete = Client(), Client()
    with begin(server, body, path) as response:
        name = name_of(response)
        take(client, response.iter_raw(), until=lambda: client.last == 9)
    with take_up(server, name, client.last) as response:
        take(client, response.iter_raw())
    with take_up(server, name, 0) as response:
        take(complete, response.iter_raw())
    assert client.texts == complete.texts
    assert len(client.texts) == body.get("n", 1) * (3 if "A dog" in str(body) else 1)
    assert client.end in ("[DONE]", "stop")
    assert client.end == complete.end


def test_without_opting_in_no_event_has_an_id(server: Server) -> None:
    for spillover in (None, {"resumable": False}):
        body = {**SHORT, "stream": True, "spillover": spillover}
        headers = {} if spillover is None else RESUME
        response = httpx.post(f"{server.url}{CHAT}", json=body, headers=headers, timeout=60)
        assert b"id: " not in response.content
        assert b"retry: " not in response.content
        assert "X-Spillover-Stream" not in response.headers


def test_whole_answers_take_no_notice_of_the_header_but_refuse_the_field(server: Server) -> None:
    reply = httpx.post(f"{server.url}{CHAT}", json=SHORT, headers=RESUME, timeout=60)
    assert reply.json()["choices"]
    body = {**SHORT, "spillover": {"resumable": True}}
    reply = httpx.post(f"{server.url}{CHAT}", json=body, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "spillover.resumable"


def test_a_cursor_outside_the_stream_is_a_400(server: Server) -> None:
    with begin(server, SHORT) as response:
        name = name_of(response)
        n = response.read().count(b"\nid: ")
    other = "0" * 32
    for header in (f"{other}:1", name, f"{name}:", f"{name}:-1", f"{name}:1e3", f"{name}:{n + 1}",
                   f"{name}:{'9' * 40}", "1", f"{name}:1 2"):  # fmt: skip
        reply = httpx.get(place(server, name), headers={"Last-Event-ID": header})
        assert reply.status_code == 400, header
        assert reply.json()["error"]["type"] == "invalid_request_error"
    for after in ("-1", "x", "", str(n + 1)):
        reply = httpx.get(place(server, name), params={"after": after})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "after"


def test_the_header_counts_where_a_browser_repeats_its_first_address(server: Server) -> None:
    with begin(server, SHORT) as response:
        name = name_of(response)
        response.read()
    header = {"Last-Event-ID": f"{name}:7"}
    reply = httpx.get(place(server, name), params={"after": 2}, headers=header)
    assert reply.content.startswith(b"retry: 1000\nid: " + name.encode() + b":8\n")


def test_a_stream_that_never_existed_is_a_404_and_there_is_no_list(server: Server) -> None:
    for method in ("GET", "DELETE"):
        reply = httpx.request(method, place(server, "0" * 32))
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "not_found_error"
    for path in ("/v1/streams", "/v1/streams/"):
        assert httpx.get(f"{server.url}{path}").status_code == 404
