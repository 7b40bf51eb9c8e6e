"""Slow clients, clients that read nothing or vanish, many at once, and shutdown."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.edge_server.conftest import Server
from tests.edge_server.places import all_idle, states
from tests.edge_server.raw_http import connect, post, rest_of
from tests.edge_server.story import STORY
from tests.waiting import wait_until

ENDLESS: dict[str, Any] = {"messages": STORY, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short time-outs."""
    server = Server(
        tmp_path_factory.mktemp("home"), "--parallel", "4",
        head_timeout_s=1, body_timeout_s=1, write_timeout_s=1,
    )  # fmt: skip
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a long queue, a small gap, so that prompts are read slowly, and enough time
    for 64 clients that share one busy core."""
    folder = tmp_path_factory.mktemp("home")
    flags = ("--parallel", "4", "--max-queue", "64", "--max-gap-ms", "20")
    server = Server(folder, *flags, head_timeout_s=300)
    yield server
    assert server.stop() == 0


@pytest.fixture
def http(strict: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=strict.url, timeout=60) as http:
        yield http


@pytest.fixture
def patient_http(patient: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=patient.url, timeout=60) as http:
        yield http


def ask_for_health(sock: socket.socket) -> None:
    """Send a request and read its whole answer."""
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b'"ok"}'):
        part = sock.recv(65536)
        assert part, "the connection was closed"
        received += part


def test_a_client_that_takes_no_bytes_is_cut_off(strict: Server, http: httpx.Client) -> None:
    # Far more than the buffers on the way hold: four answers, each token with 20 logprobs.
    body = {**ENDLESS, "n": 4, "logprobs": True, "top_logprobs": 20}
    with connect(strict, receive_bytes=4096) as sock:
        sock.sendall(post("/v1/chat/completions", body))
        wait_until(lambda: not all_idle(http))
        wait_until(lambda: all_idle(http))
        assert b"[DONE]" not in rest_of(sock)


def test_a_slow_client_gets_all_of_a_long_answer(tmp_path: Path) -> None:
    """It read all the time, but too slowly for the largest single write."""
    content = "Once upon a time there was a fox. " * 60_000
    server = Server(tmp_path, head_timeout_s=2, write_timeout_s=2)
    received, pause = b"", threading.Event()
    try:
        whole = httpx.post(f"{server.url}/tokenize", json={"content": content}, timeout=60).content
        with connect(server, receive_bytes=65536) as sock:
            sock.sendall(post("/tokenize", {"content": content}))
            while not received.endswith(whole[-16:]) and (part := sock.recv(65536)):
                received += part
                pause.wait(0.1)
        assert received.endswith(whole)
    finally:
        assert server.stop() == 0


def test_no_header_leads_into_another_clients_stream(strict: Server) -> None:
    """X-Forwarded-For used to name the connection that the answer was written to."""
    with connect(strict) as victim, connect(strict) as other:
        victim.sendall(post("/v1/chat/completions", ENDLESS))
        received = victim.recv(1)
        named = f"X-Forwarded-For: 127.0.0.1:{victim.getsockname()[1]}\r\nContent-Type".encode()
        body = {"prompt": "Once", "max_tokens": 5, "stream": True}
        other.sendall(post("/v1/completions", body).replace(b"Content-Type", named))
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            part = other.recv(65536)
            assert part, "the connection was closed"
            answer += part
        assert b'"text_completion"' in answer
        assert b"[DONE]" in answer
        victim.shutdown(socket.SHUT_WR)
        received += rest_of(victim)
    assert b"chat.completion.chunk" in received
    assert b"text_completion" not in received


def test_others_are_served_while_one_takes_no_bytes(strict: Server, http: httpx.Client) -> None:
    body = {**ENDLESS, "logprobs": True, "top_logprobs": 20}
    with connect(strict, receive_bytes=4096) as sock:
        sock.sendall(post("/v1/chat/completions", body))
        text = http.post(
            "/v1/chat/completions", json={"messages": STORY, "max_tokens": 5, "stream": True}
        ).text
        assert text.endswith("data: [DONE]\n\n")


def test_a_head_that_comes_too_slowly_is_cut_off(strict: Server) -> None:
    for begun in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: "):
        with connect(strict) as sock:
            sock.sendall(begun)
            assert rest_of(sock) == b""


def test_a_second_head_on_the_same_connection_has_its_deadline_too(strict: Server) -> None:
    with connect(strict) as sock:
        ask_for_health(sock)
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert rest_of(sock) == b""


def test_an_idle_connection_is_kept_for_the_next_request(strict: Server) -> None:
    """It used to be closed after five seconds, when many clients still use it."""
    with connect(strict) as sock:
        ask_for_health(sock)
        sock.settimeout(5.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        ask_for_health(sock)


def test_a_body_that_comes_too_slowly_is_a_408(strict: Server) -> None:
    with connect(strict) as sock:
        sock.sendall(post("/v1/chat/completions", ENDLESS)[:-5])
        answer = rest_of(sock)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too slowly" in answer


def test_300_slow_heads_keep_no_client_from_being_served(
    strict: Server, http: httpx.Client
) -> None:
    sockets = [connect(strict) for _ in range(300)]
    for sock in sockets:
        sock.sendall(b"POST / HTTP/1.1\r\n")
    assert http.get("/health").status_code == 200
    for sock in sockets:
        assert rest_of(sock) == b""
        sock.close()


def test_two_lengths_are_refused(strict: Server) -> None:
    with connect(strict) as sock:
        sock.sendall(
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
        )
        assert b" 400 " in rest_of(sock).split(b"\r\n", 1)[0]


def test_requests_that_are_not_http_get_the_usual_error_shape(strict: Server) -> None:
    with connect(strict) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")  # without a Host
        head, body = rest_of(sock).split(b"\r\n\r\n")
    assert b" 400 " in head.split(b"\r\n", 1)[0]
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_client_that_speaks_tls_is_told_of_http(strict: Server) -> None:
    with connect(strict) as sock:
        sock.sendall(bytes.fromhex("16030100c8010000c40303") + b"\x07" * 100)
        assert b"begins with http://" in rest_of(sock)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:1", 200), ("evil.example", 403)])
def test_the_host_of_a_whole_url_is_the_one_that_counts(
    strict: Server, host: str, status: int
) -> None:
    with connect(strict) as sock:
        head = f"GET http://{host}/health?x=1 HTTP/1.1\r\nHost: localhost\r\n"
        sock.sendall(head.encode() + b"Connection: close\r\n\r\n")
        assert f" {status} ".encode() in rest_of(sock).split(b"\r\n", 1)[0]


def test_one_connection_too_many_is_a_503_with_retry_after(tmp_path: Path) -> None:
    """It used to get plain text, as did the last connection within the limit."""
    server = Server(tmp_path, "--parallel", "4", max_connections=2)
    with connect(server) as first:
        first.sendall(post("/v1/chat/completions", {**ENDLESS, "n": 2}))
        assert first.recv(65536)
        with connect(server) as second:
            second.sendall(post("/v1/chat/completions", {**ENDLESS, "n": 2}))
            assert second.recv(65536)
            refused = httpx.get(f"{server.url}/health")
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert refused.json()["error"]["type"] == "unavailable_error"
        wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    assert server.stop() == 0


def test_an_old_client_without_chunks_gets_the_same_stream(
    strict: Server, http: httpx.Client
) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0, "stream": True}
    with connect(strict) as sock:
        sock.sendall(post("/v1/completions", body).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, text = rest_of(sock).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert text.endswith(b"data: [DONE]\n\n")
    assert text.count(b"data: {") == http.post("/v1/completions", json=body).text.count("data: {")


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_client_that_leaves_frees_its_place(
    patient: Server, patient_http: httpx.Client, phase: str
) -> None:
    http = patient_http
    wait_until(lambda: all_idle(http))
    with connect(patient) as running:
        # Three answers are generated; with a gap of 20 ms a long prompt beside them takes long.
        running.sendall(post("/v1/chat/completions", {**ENDLESS, "n": 3}))
        wait_until(lambda: states(http).count("decode") == 3)
        with connect(patient) as leaving:
            prompt = [300] * (900 if phase == "prefill" else 20)
            leaving.sendall(post("/v1/completions", {"prompt": prompt, "ignore_eos": True}))
            wait_until(lambda: states(http)[3] == phase)
        wait_until(lambda: states(http)[3] == "idle")
    wait_until(lambda: all_idle(http))


def test_a_client_that_leaves_the_queue_makes_room_in_it(tmp_path: Path) -> None:
    server = Server(tmp_path, "--parallel", "1", "--max-queue", "1")
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http, connect(server) as running:
            running.sendall(post("/v1/chat/completions", {**ENDLESS, "n": 1}))
            wait_until(lambda: states(http) == ["decode"])
            with connect(server) as leaving:
                leaving.sendall(post("/v1/chat/completions", ENDLESS))
                assert leaving.recv(65536).startswith(b"HTTP/1.1 200")
                refused = http.post("/v1/chat/completions", json=ENDLESS)
                assert refused.status_code == 429
                assert int(refused.headers["Retry-After"]) >= 1
            wait_until(lambda: _is_accepted(http))
    finally:
        assert server.stop() == 0


def _is_accepted(http: httpx.Client) -> bool:
    with http.stream("POST", "/v1/chat/completions", json=ENDLESS) as response:
        return response.status_code == 200


def test_64_streams_at_once_are_complete_and_their_own(patient_http: httpx.Client) -> None:
    def ask(i: int) -> tuple[int, str, list[int]]:
        body = {"prompt": f"Number {i}", "seed": i, "n_predict": 24, "ignore_eos": True}
        response = patient_http.post("/completion", json={**body, "stream": True})
        assert response.status_code == 200, response.text
        chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line[:1] == "d"]
        assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1]["prompt"] == f"Number {i}"
        assert chunks[-1]["tokens_predicted"] == 24
        tokens = [token for chunk in chunks for token in chunk["tokens"]]
        return i, "".join(chunk["content"] for chunk in chunks), tokens

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    for i, text, tokens in answers:
        # A character that the last token left unfinished has a text, but no token id of its own.
        whole = patient_http.post("/detokenize", json={"tokens": tokens}).json()["content"]
        assert text.rstrip("\ufffd") == whole.rstrip("\ufffd"), i
    assert len({text for _, text, _ in answers}) > 60


def test_what_runs_at_the_end_gets_its_last_event(tmp_path: Path) -> None:
    server = Server(tmp_path, "--parallel", "4", shutdown_grace_s=0.2)
    whole, streamed, queued = (connect(server) for _ in range(3))
    with httpx.Client(base_url=server.url, timeout=60) as http:
        whole.sendall(post("/v1/chat/completions", {**ENDLESS, "stream": False}))
        wait_until(lambda: states(http).count("decode") == 1)
        streamed.sendall(post("/v1/chat/completions", {**ENDLESS, "n": 3}))
        wait_until(lambda: states(http).count("decode") == 4)
        queued.sendall(post("/v1/chat/completions", ENDLESS))
        assert queued.recv(12) == b"HTTP/1.1 200"
    with ThreadPoolExecutor(3) as pool:
        bodies = [pool.submit(rest_of, sock) for sock in (whole, streamed, queued)]
        assert server.stop(signal.SIGTERM) == 0
    for body in bodies:
        assert b"shutting down" in body.result()
        assert b"[DONE]" not in body.result()
    assert bodies[0].result().startswith(b"HTTP/1.1 503")
    for sock in (whole, streamed, queued):
        sock.close()


def test_streams_that_end_within_the_grace_are_complete(tmp_path: Path) -> None:
    server = Server(tmp_path, shutdown_grace_s=30)
    with connect(server) as sock:
        sock.sendall(post("/v1/chat/completions", {**ENDLESS, "max_tokens": 300}))
        received = sock.recv(65536)
        ended = threading.Thread(target=lambda: bodies.append(rest_of(sock)))
        bodies: list[bytes] = []
        ended.start()
        assert server.stop(signal.SIGTERM) == 0
        ended.join(30)
    assert (received + bodies[0]).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_says_so(tmp_path: Path, stream: bool) -> None:
    """Its end used to be called a cancellation."""
    server = Server(tmp_path, "--parallel", "4", max_generation_s=0.05)
    try:
        body = {**ENDLESS, "n": 4, "stream": stream}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert reply.text.count('"error"') == 1
        assert "ended after 0.05 s" in reply.text
        assert "[DONE]" not in reply.text
    finally:
        assert server.stop() == 0


def test_a_request_that_waits_for_the_worker_gets_a_503_at_shutdown(tmp_path: Path) -> None:
    """It used to be cut off without an answer, with a traceback in the log."""
    server = Server(tmp_path, shutdown_grace_s=0)
    (worker,) = psutil.Process(server.process.pid).children()
    worker.suspend()
    with connect(server) as sock:
        sock.sendall(post("/v1/chat/completions", {**ENDLESS, "stream": False}))
        with connect(server) as other:  # when it is answered, the first one was read
            other.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert other.recv(1)
        server.process.send_signal(signal.SIGINT)
        answer = rest_of(sock)
    worker.resume()
    assert b" 503 " in answer.split(b"\r\n", 1)[0]
    assert b"shutting down" in answer
    assert server.stop() == 0
    assert "Traceback" not in server.said
