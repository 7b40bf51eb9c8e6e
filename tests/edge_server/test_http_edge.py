"""What HTTP allows and clients do: large and compressed bodies, many connections, odd paths."""

from __future__ import annotations

import fcntl
import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.edge_server.conftest import Server
from tests.waiting import wait_until

BODY = {"prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes small bodies only."""
    server = Server(tmp_path_factory.mktemp("home"), max_body_bytes=4096)
    yield server
    assert server.stop() == 0


@pytest.fixture
def small_http(small: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=small.url, timeout=60) as http:
        yield http


def connect(server: Server) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.settimeout(60)
    return sock


def head(server: Server, path: str, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def rest_of(sock: socket.socket) -> bytes:
    received = b""
    while part := sock.recv(65536):
        received += part
    return received


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_a_body_far_beyond_the_limit_is_a_413(small_http: httpx.Client, path: str) -> None:
    """The connection used to be reset, and no client saw why."""
    body = b" " * (64 * 2**20)
    headers = {"Content-Type": "application/json"}
    response = small_http.post(path, content=body, headers=headers)
    assert response.status_code == 413
    assert "more than 4096 bytes" in response.json()["error"]["message"]


def test_a_body_of_unknown_length_beyond_the_limit_is_a_413(small_http: httpx.Client) -> None:
    pieces = (b" " * 65_536 for _ in range(500))
    headers = {"Content-Type": "application/json"}
    assert small_http.post("/tokenize", content=pieces, headers=headers).status_code == 413


def test_a_client_that_asks_first_need_not_send_its_large_body(small: Server) -> None:
    with connect(small) as sock:
        sock.sendall(head(small, "/tokenize", Content_Length="99999999", Expect="100-continue"))
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_gzipped_body_is_read(http: httpx.Client) -> None:
    """It used to be bad JSON."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    content = gzip.compress(json.dumps(BODY).encode())
    zipped = http.post("/v1/completions", content=content, headers=headers)
    assert zipped.status_code == 200, zipped.text
    plain = http.post("/v1/completions", json=BODY).json()
    assert zipped.json()["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("coding", "content", "status", "message"),
    [
        ("gzip", gzip.compress(b" " * 100_000), 413, "more than 4096 bytes when decompressed"),
        ("gzip", gzip.compress(b" " * 3_000) * 2, 413, "more than 4096 bytes when decompressed"),
        ("gzip", b"{}", 400, "not valid gzip"),
        ("gzip", gzip.compress(b"{}")[:-4], 400, "ends too early"),
        ("br", b"{}", 415, "send gzip"),
    ],
    ids=["one large member", "two members", "no gzip", "cut short", "another coding"],
)
def test_a_body_that_cannot_be_decompressed_is_refused(
    small_http: httpx.Client, coding: str, content: bytes, status: int, message: str
) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    response = small_http.post("/tokenize", content=content, headers=headers)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_a_body_in_thousands_of_pieces_is_refused(http: httpx.Client) -> None:
    """Each cost a copy of all that followed it: 8 MB of them held a thread for minutes."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    content = gzip.compress(b"") * 10_000
    response = http.post("/tokenize", content=content, headers=headers)
    assert response.status_code == 400
    assert "more than 256 members" in response.json()["error"]["message"]


def test_doubled_slashes_in_a_path_count_as_one(http: httpx.Client) -> None:
    """There was a redirect, with a page in HTML."""
    assert http.post("/v1//completions", json=BODY).status_code == 200
    assert http.get("//v1///models").status_code == 200


def test_each_response_has_an_id(http: httpx.Client) -> None:
    ids = {
        http.get("/health").headers["X-Request-Id"],
        http.get("/nowhere").headers["X-Request-Id"],
        http.post("/v1/completions", json=BODY | {"stream": True}).headers["X-Request-Id"],
    }
    assert len(ids) == 3
    assert all(re.fullmatch("req_[0-9a-f]{24}", name) for name in ids)
    asked = http.get("/health", headers={"X-Request-Id": "mine-1"})
    assert asked.headers["X-Request-Id"] == "mine-1"
    odd = http.get("/health", headers={"X-Request-Id": "a b"})
    assert odd.headers["X-Request-Id"].startswith("req_")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_closes_its_direction_gets_its_answer(
    server: Server, is_stream: bool
) -> None:
    """It used to count as one that has left."""
    content = json.dumps(BODY | {"stream": is_stream, "max_tokens": 30}).encode()
    with connect(server) as sock:
        sock.sendall(head(server, "/v1/completions", Content_Length=str(len(content))) + content)
        sock.shutdown(socket.SHUT_WR)
        received = rest_of(sock)
    assert b"HTTP/1.1 200 OK\r\n" in received
    assert b'"length"' in received


def test_half_a_request_is_none(server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(head(server, "/v1/completions", Content_Length="100") + b"{")
        sock.shutdown(socket.SHUT_WR)
        assert rest_of(sock) == b""


def test_a_worker_that_hangs_holds_up_nobody_but_its_answers(tmp_path: Path) -> None:
    """Each request took a thread until there was none, and nothing was ever answered again."""
    flags = ("--parallel", "4", "--max-queue", "300")
    server = Server(tmp_path, *flags, max_connections=301, hang_timeout_s=600)
    (worker,) = psutil.Process(server.process.pid).children()
    content = json.dumps(BODY | {"stream": True, "max_tokens": 3}).encode()
    request = head(server, "/v1/completions", Content_Length=str(len(content))) + content
    worker.suspend()
    sockets = [connect(server) for _ in range(300)]
    try:
        for sock in sockets:
            sock.sendall(request)
        for sock in sockets:  # all are begun, and none waits in silence
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        with httpx.Client(base_url=server.url, timeout=60) as http:
            assert http.get("/health").status_code == 200
            assert http.get("/v1/models").status_code == 200
        worker.resume()
        for sock in sockets:
            body = b""
            while b"[DONE]" not in body:
                part = sock.recv(65536)
                assert part, body
                body += part
    finally:
        for sock in sockets:
            sock.close()
        assert server.stop() == 0


def test_answers_go_on_when_their_worker_hangs(tmp_path: Path) -> None:
    server = Server(tmp_path, hang_timeout_s=2)
    (worker,) = psutil.Process(server.process.pid).children()
    try:
        worker.suspend()
        response = httpx.post(f"{server.url}/v1/completions", json=BODY, timeout=120)
        assert response.json()["usage"]["completion_tokens"] == 3
    finally:
        assert server.stop() == 0
    assert "hung (no sign of life for 2 s) and was ended" in server.said


def test_idle_connections_make_room_for_new_ones(tmp_path: Path) -> None:
    """With as many idle connections as are allowed, nobody else was served."""
    server = Server(tmp_path, max_connections=4)
    clients: list[Any] = []
    try:
        for _ in range(20):
            client = httpx.Client(base_url=server.url, timeout=60)
            clients.append(client)
            assert client.get("/health").status_code == 200
        assert all(client.get("/health").status_code == 200 for client in clients)
    finally:
        for client in clients:
            client.close()
        assert server.stop() == 0


def test_missing_descriptors_are_one_line_in_the_log_and_are_survived(tmp_path: Path) -> None:
    """There were 40,000 tracebacks in some seconds, and no worker was started any more."""
    server = Server(tmp_path)
    process = psutil.Process(server.process.pid)
    (worker,) = process.children()
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    n_open = process.num_fds()
    process.rlimit(psutil.RLIMIT_NOFILE, (n_open + 8, before[1]))
    sockets = []
    try:
        sockets = [connect(server) for _ in range(40)]
        wait_until(lambda: process.num_fds() >= n_open + 8)
        worker.kill()
        worker.wait(60)
        process.rlimit(psutil.RLIMIT_NOFILE, before)
        with httpx.Client(base_url=server.url, timeout=120) as http:
            wait_until(lambda: http.get("/health").status_code == 200)
            assert http.post("/v1/completions", json=BODY).status_code == 200
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, before)
        for sock in sockets:
            sock.close()
        assert server.stop() == 0
    assert server.said.count("new connections have to wait") == 1
    assert "Traceback" not in server.said


def test_the_limit_on_open_files_is_raised_for_all_connections(tmp_path: Path) -> None:
    server = Server(tmp_path, max_connections=3000)
    try:
        soft, hard = psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert soft > 3000 or soft == hard
        assert (soft > 3000) != ("connections are served" in server.said)
    finally:
        assert server.stop() == 0


def test_a_log_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    """The event loop waited in the middle of a line for ever."""
    server = Server(tmp_path, "--log-level", "debug")
    assert server.process.stderr is not None
    fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            for number in range(100):
                assert http.get(f"/nowhere/{number}/{'x.' * 40}").status_code == 404
            assert http.post("/v1/completions", json=BODY | {"stream": True}).status_code == 200
    finally:
        assert server.stop() == 0
    assert server.said.count(" 404 ") == 100


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b"POST /tokenize HTTP/1.1", 400),
        (b"POST http://localhost//tokenize?a=b HTTP/1.1", 400),
        (b"POST /v1/chat/completions HTTP/1.1", None),
        (b"GET /slots", 400),
        (b"\x16\x03\x01\x02", None),
    ],
)
@pytest.mark.parametrize("is_second", [False, True])
def test_what_is_not_http_is_an_error_in_the_shape_of_its_path(
    server: Server, request_line: bytes, code: int | None, *, is_second: bool
) -> None:
    """It had OpenAI's shape everywhere; its code is the status at llama.cpp's own paths."""
    before = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" if is_second else b""
    with connect(server) as sock:
        sock.sendall(before + request_line + b"\r\nno header\r\n\r\n")
        received = rest_of(sock)
    *_, error_head, body = received.split(b"\r\n\r\n")
    assert b"HTTP/1.1 400 " in error_head
    assert json.loads(body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("path", "code"), [("/completion", 431), ("/v1/completions", "request_too_large")]
)
def test_a_head_that_is_too_large_says_so(server: Server, path: str, code: int | str) -> None:
    """It was no valid HTTP request."""
    with connect(server) as sock:
        sock.sendall(head(server, path, Cookie="c" * 40_000)[:-2])
        received = rest_of(sock)
    error_head, body = received.split(b"\r\n\r\n")
    assert error_head.startswith(b"HTTP/1.1 431 ")
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert error["message"] == "the request's head has more than 32768 bytes: shorten it"
