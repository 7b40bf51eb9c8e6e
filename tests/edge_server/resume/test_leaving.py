"""What a stream without clients costs, and who may use it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.edge_server.conftest import Server
from tests.edge_server.raw_http import connect, post, rest_of
from tests.edge_server.resume.answer import Client
from tests.edge_server.resume.connecting import (
    CHAT,
    LONG,
    begin,
    name_of,
    place,
    states,
    take,
    take_up,
)
from tests.edge_server.story import STORY
from tests.waiting import wait_until

MINE, YOURS = "the key of the tablet", "the key of the phone"
I_AM, YOU_ARE = {"X-Api-Key": MINE}, {"X-Api-Key": YOURS}


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two users, one resumable stream and short time-outs."""
    server = Server(
        tmp_path_factory.mktemp("home"), "--parallel", "4", api_key=f"{MINE},{YOURS}",
        resume_grace_s=0.3, max_resumable=1, write_timeout_s=1,
    )  # fmt: skip
    yield server
    assert server.stop() == 0


def is_idle(server: Server) -> bool:
    return set(states(server, MINE)) == {"idle"}


def end_of(server: Server, name: str) -> str:
    """The last bytes of a stream, once it has ended."""
    reply = httpx.get(place(server, name), params={"after": _newest(server, name)}, headers=I_AM)
    return reply.text


def _newest(server: Server, name: str) -> int:
    """The cursor before the newest event."""
    error = httpx.get(place(server, name), params={"after": 10**9}, headers=I_AM).json()["error"]
    return int(error["last"]) - 1


def test_an_abandoned_answer_is_cancelled(tight: Server) -> None:
    with begin(tight, {**LONG, "n": 4}, key=MINE) as response:
        name = name_of(response)
        wait_until(lambda: "decode" in states(tight, MINE))
    wait_until(lambda: is_idle(tight))
    end = end_of(tight, name)
    assert "no client came back" in end
    assert "[DONE]" not in end


def test_an_answer_continues_while_it_has_followers(tight: Server) -> None:
    """For longer than the server waits without a client."""
    client = Client()
    with begin(tight, LONG, key=MINE) as first:
        name, parts = name_of(first), first.iter_raw()
        take(client, parts, until=lambda: client.last == 5)
        with take_up(tight, name, client.last, MINE) as second:
            first.close()
            take(client, second.iter_raw())
    assert client.end == "[DONE]"


def test_delete_stops_the_answer_for_all_who_follow_it(tight: Server) -> None:
    with begin(tight, LONG, key=MINE) as response, ThreadPoolExecutor() as pool:
        name = name_of(response)
        other = pool.submit(httpx.get, place(tight, name), headers=I_AM, timeout=60)
        reply = httpx.delete(place(tight, name), headers=I_AM)
        assert reply.json() == {"id": name, "object": "stream", "stopped": True}
        for body in (response.read(), other.result().content):
            assert b"the answer was cancelled by its client" in body.split(b"\n\n")[-2]
    wait_until(lambda: is_idle(tight))
    assert httpx.delete(place(tight, name), headers=I_AM).json()["stopped"] is False


def test_somebody_elses_stream_is_as_unknown_as_none(tight: Server) -> None:
    with begin(tight, {**LONG, "max_tokens": 3}, key=MINE) as response:
        name = name_of(response)
        response.read()
    for method in ("GET", "DELETE"):
        foreign = httpx.request(method, place(tight, name), headers=YOU_ARE)
        unknown = httpx.request(method, place(tight, "0" * 32), headers=YOU_ARE)
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.content == unknown.content
    assert httpx.get(place(tight, name)).status_code == 401
    assert httpx.get(place(tight, name), headers=I_AM).status_code == 200


def test_a_cursor_older_than_the_log_is_a_410_that_names_the_oldest_event(tmp_path: Path) -> None:
    server = Server(tmp_path, resume_log_bytes=32_768)
    try:
        with begin(server, {**LONG, "max_tokens": 400}) as response:
            name = name_of(response)
            response.read()
        reply = httpx.get(place(server, name), params={"after": 0})
        assert reply.status_code == 410
        first = reply.json()["error"]["first"]
        assert first > 1
        rest = httpx.get(place(server, name), params={"after": first - 1}).content
        assert rest.startswith(b"retry: 1000\nid: %b:%d\n" % (name.encode(), first))
        assert rest.endswith(b"data: [DONE]\n\n")
        assert len(rest) < 2 * 32_768
    finally:
        assert server.stop() == 0


def test_there_are_no_more_streams_than_places_and_ended_ones_make_room(tight: Server) -> None:
    with begin(tight, LONG, key=MINE) as response:
        name = name_of(response)
        with begin(tight, LONG, key=MINE) as refused:
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert "resumable answers are running" in json.loads(refused.read())["error"]["message"]
        httpx.delete(place(tight, name), headers=I_AM)
        response.read()
    with begin(tight, {**LONG, "max_tokens": 3}, key=MINE) as response:
        assert response.read().endswith(b"data: [DONE]\n\n")
    assert httpx.get(place(tight, name), headers=I_AM).status_code == 404


def test_a_request_that_is_refused_takes_no_place(tight: Server) -> None:
    for _ in range(3):
        with begin(tight, {"messages": []}, key=MINE) as refused:
            assert refused.status_code == 400
        with begin(tight, {"messages": STORY * 600}, key=MINE) as refused:
            assert refused.status_code == 400
    with begin(tight, {**LONG, "max_tokens": 3}, key=MINE) as response:
        assert response.status_code == 200
        response.read()


def test_a_client_that_takes_no_bytes_is_cut_off_and_the_answer_continues(tmp_path: Path) -> None:
    server = Server(tmp_path, "--parallel", "4", write_timeout_s=1)
    # Far more than the buffers on the way hold: four answers, each token with 20 logprobs.
    body = {**LONG, "n": 4, "logprobs": True, "top_logprobs": 20, "stream": True}
    try:
        with connect(server, receive_bytes=4096) as sock:
            request = post(CHAT, body)
            sock.sendall(request.replace(b"\r\n\r\n", b"\r\nX-Spillover-Resume: 1\r\n\r\n", 1))
            head = b""
            while b"\nid: " not in head:
                head += sock.recv(512)
            name = head.partition(b"x-spillover-stream: ")[2][:32].decode()
            last = b""
            with take_up(server, name, 1) as response:
                for part in response.iter_raw():
                    last = (last + part)[-64:]
            assert last.endswith(b"data: [DONE]\n\n")
            assert b"[DONE]" not in rest_of(sock)
    finally:
        assert server.stop() == 0


def test_an_ended_stream_is_forgotten_in_the_end(tmp_path: Path) -> None:
    server = Server(tmp_path, resume_keep_s=0.2)
    try:
        with begin(server, {**LONG, "max_tokens": 3}) as response:
            name = name_of(response)
            response.read()
        wait_until(lambda: httpx.get(place(server, name)).status_code == 404)
    finally:
        assert server.stop() == 0


def test_where_none_are_offered_asking_for_one_is_a_400(tmp_path: Path) -> None:
    server = Server(tmp_path, max_resumable=0)
    try:
        with begin(server, LONG) as refused:
            assert refused.status_code == 400
            assert b"max_resumable" in refused.read()
    finally:
        assert server.stop() == 0


def test_the_last_event_at_shutdown_has_no_id_and_waits_for_no_client(tmp_path: Path) -> None:
    server = Server(tmp_path, "--parallel", "4", shutdown_grace_s=0.2)
    with begin(server, LONG) as abandoned:
        name_of(abandoned)
    with begin(server, {**LONG, "n": 2}) as response:
        parts: list[bytes] = []
        reader = threading.Thread(target=lambda: parts.extend(response.iter_raw()))
        reader.start()
        wait_until(lambda: bool(parts))
        assert server.stop(signal.SIGTERM) == 0
        reader.join(30)
    *_, last, rest = b"".join(parts).split(b"\n\n")
    assert not rest
    assert b"shutting down" in last
    assert b"id: " not in last
