"""A real server process on the bundled model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.measured import measured
from tests.stream_readers import StreamWatch


@pytest.fixture(scope="session")
def stream_watch() -> Iterator[StreamWatch]:
    """Sees every stream that a client of these tests receives by httpx, as SDKs do."""
    watch = StreamWatch()
    send, send_async = (
        httpx.HTTPTransport.handle_request,
        httpx.AsyncHTTPTransport.handle_async_request,
    )

    def handle(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        response = send(transport, request)
        watch.over(request, response)
        return response

    async def handle_async(
        transport: httpx.AsyncHTTPTransport, request: httpx.Request
    ) -> httpx.Response:
        response = await send_async(transport, request)
        watch.over(request, response)
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.HTTPTransport, "handle_request", handle)
        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle_async)
        yield watch


@pytest.fixture(autouse=True)
def no_stream_breaks_a_reader(stream_watch: StreamWatch) -> Iterator[None]:
    """Strict and lenient readers read every stream of every test."""
    stream_watch.take_broken()  # fakes of tests elsewhere break off what they like
    yield
    assert stream_watch.take_broken() == []


class Server:
    """`spillover serve` on a free port, in its own process."""

    def __init__(self, folder: Path, *arguments: str, **settings: object) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLOVER_")}
        # More threads collapse when tests run beside other programs, and the model is small.
        environment["SPILLOVER_N_THREADS"] = "1"
        environment |= {f"SPILLOVER_{k.upper()}": str(v) for k, v in settings.items()}
        environment |= {"XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        measured(folder / "spillover")
        command = [sys.executable, "-m", "spillover.edge_server.cli", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *arguments], stderr=subprocess.PIPE, text=True, env=environment
        )
        self.said = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if found := re.search(r"address\s+(http://127\.0\.0\.1:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
                return
        raise AssertionError(f"the server did not start: {self.said}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop it with a signal, by default that of Ctrl-C, and return its exit code."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("home"), "--parallel", "4", "--max-queue", "4")
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http
