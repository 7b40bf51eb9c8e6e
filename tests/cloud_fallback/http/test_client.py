"""HTTP to real servers: connections are kept, opened ahead, bounded, and go where they should."""

from __future__ import annotations

import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.errors import Broken, Cancelled, NotReached, TimedOut
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from tests.cloud_fallback.http.certificates import write_certificate
from tests.cloud_fallback.http.tunnel import Tunnel
from tests.cloud_fallback.http.waiting import Waiter
from tests.fakes.fake import Fake
from tests.fakes.script import Act

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
PATH = "/v1/chat/completions"


def post(http: Http, url: str, exchange: Exchange | None = None, *, direct: bool = False) -> bytes:
    outgoing = Outgoing(url=url + PATH, headers={}, body=BODY, direct=direct)
    exchange = exchange or Exchange(time.monotonic() + 20, connect_timeout_s=10)
    incoming = http.open(outgoing, exchange)
    try:
        return b"".join(incoming)
    finally:
        incoming.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure_fake(certificate: tuple[Path, Path]) -> Generator[Fake]:
    fake = Fake("--tls", *map(str, certificate))
    yield fake
    fake.stop()


@pytest.fixture
def trusting_http(certificate: tuple[Path, Path]) -> Generator[Http]:
    http = Http(tls=ssl.create_default_context(cafile=certificate[0]))
    yield http
    http.close()


@pytest.fixture
def silent_server() -> Generator[socket.socket]:
    """Accepts connections and says nothing, not even in a TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


# TLS.


def test_an_untrusted_certificate_is_refused(secure_fake: Fake, http: Http) -> None:
    with pytest.raises(NotReached, match=r"certificate of 127\.0\.0\.1 is not trusted"):
        post(http, secure_fake.url)
    assert secure_fake.requests == []


def test_a_certificate_of_another_host_is_refused(secure_fake: Fake, trusting_http: Http) -> None:
    with pytest.raises(NotReached, match="certificate of localhost is not trusted"):
        post(trusting_http, f"https://localhost:{secure_fake.port}")


def test_a_secure_connection_is_opened_ahead_and_kept(
    secure_fake: Fake, trusting_http: Http
) -> None:
    """The session tickets that a server sends after the handshake used to pass for its end."""
    trusting_http.warm(secure_fake.url)
    post(trusting_http, secure_fake.url)
    trusting_http.warm(secure_fake.url)
    post(trusting_http, secure_fake.url)
    assert (secure_fake.record.accepted, len(secure_fake.requests)) == (1, 2)


def test_cancel_ends_a_read_of_a_secure_connection(secure_fake: Fake, trusting_http: Http) -> None:
    secure_fake.script(Act(hold_after_chunks=1))
    exchange = Exchange()
    waiter = Waiter(lambda: post(trusting_http, secure_fake.url, exchange))
    secure_fake.wait_for(holding=1)
    exchange.cancel()
    assert isinstance(waiter.error(), Cancelled)
    secure_fake.wait_for(open=0)


def test_cancel_ends_a_handshake(silent_server: socket.socket, trusting_http: Http) -> None:
    exchange = Exchange()
    url = f"https://127.0.0.1:{silent_server.getsockname()[1]}"
    waiter = Waiter(lambda: post(trusting_http, url, exchange))
    with silent_server.accept()[0] as peer:
        peer.recv(1)
        exchange.cancel()
        assert isinstance(waiter.error(), Cancelled)


def test_a_handshake_has_the_time_of_connecting(
    silent_server: socket.socket, trusting_http: Http
) -> None:
    url = f"https://127.0.0.1:{silent_server.getsockname()[1]}"
    with pytest.raises(NotReached, match=r"no connection to 127\.0\.0\.1 within"):
        post(trusting_http, url, Exchange(time.monotonic() + 30, connect_timeout_s=0.1))


def test_a_server_without_tls_is_recognized(
    silent_server: socket.socket, trusting_http: Http
) -> None:
    url = f"https://127.0.0.1:{silent_server.getsockname()[1]}"
    waiter = Waiter(lambda: post(trusting_http, url))
    with silent_server.accept()[0] as peer:
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(NotReached, match="no TLS connection"):
            waiter.result()


# Connections.


def test_requests_beyond_the_bound_wait_for_their_turn(fake: Fake) -> None:
    http = Http(max_requests=1)
    fake.script(Act(hold_after_chunks=1))
    first = Waiter(lambda: post(http, fake.url))
    fake.wait_for(holding=1)
    with pytest.raises(TimedOut):
        post(http, fake.url, Exchange(time.monotonic() + 0.05))
    second = Waiter(lambda: post(http, fake.url))
    fake.release()
    assert first.result()
    fake.wait_for(holding=1)
    fake.release()
    assert second.result()
    assert fake.record.accepted == 1
    http.close()


def test_a_cancelled_wait_sends_nothing(fake: Fake) -> None:
    http, exchange = Http(max_requests=1), Exchange()
    fake.script(Act(hold_after_chunks=1))
    first = Waiter(lambda: post(http, fake.url))
    fake.wait_for(holding=1)
    second = Waiter(lambda: post(http, fake.url, exchange))
    exchange.cancel()
    assert isinstance(second.error(), Cancelled)
    fake.release()
    first.result()
    assert len(fake.requests) == 1
    http.close()


def test_an_idle_connection_is_closed_in_the_end(fake: Fake) -> None:
    http = Http()
    http.warm(fake.url)
    post(http, fake.url)
    http.warm(fake.url)
    assert fake.record.open == 1
    http.close()
    fake.wait_for(open=0)


def test_an_unread_response_is_not_kept(fake: Fake, http: Http) -> None:
    fake.script(Act(hold_after_chunks=1))
    incoming = http.open(Outgoing(url=fake.url + PATH, headers={}, body=BODY), Exchange())
    incoming.close()
    fake.wait_for(open=0)


def test_a_response_that_is_not_http_is_not_quoted(http: Http) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiter = Waiter(lambda: post(http, f"http://127.0.0.1:{listener.getsockname()[1]}"))
        with listener.accept()[0] as peer:
            peer.recv(65_536)
            peer.sendall(b"SSH-2.0-secret\r\n\r\n")
            error = waiter.error()
    assert isinstance(error, Broken)
    assert "secret" not in str(error)


def test_an_endless_head_is_broken_off(http: Http) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiter = Waiter(lambda: post(http, f"http://127.0.0.1:{listener.getsockname()[1]}"))
        with listener.accept()[0] as peer:
            peer.recv(65_536)
            peer.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000)
            assert isinstance(waiter.error(), Broken)


def test_a_header_with_a_line_end_is_never_quoted(fake: Fake, http: Http) -> None:
    outgoing = Outgoing(url=fake.url + PATH, headers={"x": "sk-1234\r\ny: z"}, body=BODY)
    with pytest.raises(NotReached) as caught:
        http.open(outgoing, Exchange())
    error: BaseException | None = caught.value
    while error is not None:
        assert "sk-1234" not in repr(error)
        error = error.__cause__


def test_bytes_of_an_earlier_response_do_not_count_for_the_next_request(
    fake: Fake, http: Http
) -> None:
    """An exchange that had fetched a token used to get no replacement of a dead connection."""
    exchange = Exchange(time.monotonic() + 20)
    post(http, fake.url, exchange)
    fake.script(Act(before_response="reset"), Act())
    assert post(http, fake.url, exchange)


def test_cancel_ends_the_reading_of_an_error(fake: Fake, http: Http) -> None:
    fake.script(Act(hold_after_chunks=1))
    exchange = Exchange()
    incoming = http.open(Outgoing(url=fake.url + PATH, headers={}, body=BODY), exchange)
    waiter = Waiter(incoming.read)
    fake.wait_for(holding=1)
    exchange.cancel()
    assert isinstance(waiter.error(), Cancelled)
    incoming.close()


def test_closing_ends_warming(silent_server: socket.socket, trusting_http: Http) -> None:
    url = f"https://127.0.0.1:{silent_server.getsockname()[1]}"
    waiter = Waiter(lambda: trusting_http.warm(url))
    with silent_server.accept()[0] as peer:
        peer.recv(1)
        trusting_http.close()
        assert isinstance(waiter.error(), Cancelled)


def test_what_is_closed_stays_closed(fake: Fake) -> None:
    http = Http()
    post(http, fake.url)
    http.close()
    with pytest.raises(Cancelled):
        post(http, fake.url)
    assert len(fake.requests) == 1


def test_unreadable_certificates_are_reported(
    secure_fake: Fake, http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    http.prepare()
    with pytest.raises(NotReached, match="trusted certificates cannot be read"):
        post(http, secure_fake.url)


def test_too_many_open_files_are_reported(fake: Fake, http: Http) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    http.prepare()
    with open(os.devnull) as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno(), hard))
    try:
        with pytest.raises(NotReached, match="Too many open files"):
            post(http, fake.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Where requests go.


def test_proxies_of_the_environment_are_ignored(
    fake: Fake, make_fake: Callable[[], Fake], http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_fake()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, other.url)
    post(http, fake.url)
    assert (len(fake.requests), other.record.accepted) == (1, 0)


def test_a_given_proxy_is_used_except_for_direct_requests(
    fake: Fake, make_fake: Callable[[], Fake]
) -> None:
    proxy = make_fake()
    http = Http(proxy=proxy.url)
    http.warm("http://cloud.invalid")
    post(http, "http://cloud.invalid")
    assert (proxy.record.accepted, len(proxy.requests)) == (1, 1)
    assert proxy.requests[0].path == f"http://cloud.invalid{PATH}"
    post(http, fake.url, direct=True)
    assert (len(proxy.requests), len(fake.requests)) == (1, 1)
    http.close()


def test_secure_connections_go_through_a_tunnel_of_the_proxy(
    secure_fake: Fake, certificate: tuple[Path, Path]
) -> None:
    tunnel = Tunnel()
    http = Http(proxy=tunnel.url, tls=ssl.create_default_context(cafile=certificate[0]))
    http.warm(secure_fake.url)
    for _ in range(2):
        post(http, secure_fake.url)
    (head,) = tunnel.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{secure_fake.port} ")
    assert "Basic dXNlcjpwYXNzIHdvcmQ=" in head
    http.close()
    tunnel.close()


@pytest.mark.parametrize("url", ["ftp://host", "host", "https://", "http://host:port"])
def test_an_invalid_address_is_reported(http: Http, url: str) -> None:
    with pytest.raises(NotReached):
        post(http, url)


def test_preparing_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    http = Http()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    http.prepare()
    http.close()


def test_nothing_is_imported_before_a_provider_is_used() -> None:
    program = (
        "import sys\n"
        "from spillover.cloud_fallback.providers.build import build_engine\n"
        "from spillover.cloud_fallback.http.client import Http\n"
        "Http()\n"
        "found = {'httpcore2', 'httpx2', 'h11', 'ssl', 'keyring', 'botocore', 'google.auth'}\n"
        "print(sorted(found & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"
