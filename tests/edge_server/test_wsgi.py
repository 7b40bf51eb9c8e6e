"""The same views under other WSGI servers: one thread per stream, the same answers."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import waitress
from flask import Flask
from werkzeug.serving import make_server

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.router import Router
from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.app import create_app
from spillover.models.catalogue import default_model
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.protocol import AskBytes
from spillover.runtime.worker.supervision.dispatcher import Dispatcher
from tests.edge_server.conftest import Server
from tests.edge_server.places import wait_for_the_places
from tests.edge_server.resume.answer import Client
from tests.edge_server.resume.connecting import take
from tests.edge_server.story import STORY
from tests.measured import measured


@contextlib.contextmanager
def under_werkzeug(app: Flask) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.port
    server.shutdown()
    thread.join(10)
    server.server_close()


@contextlib.contextmanager
def under_waitress(app: Flask) -> Iterator[int]:
    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.effective_port
    server.trigger.pull_trigger(server.close)  # by the loop: it may just be waiting for the socket
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = EngineOptions(
        n_parallel=4, max_queue=4, cache_dir=measured(tmp_path_factory.mktemp("cache")), n_threads=1
    )
    with LocalEngine(Path(default_model().path), options, name="storyteller") as engine:
        engine.wait_ready(60)
        router = Router(engine, CloudSettings(), None)
        service = Service(engine, router, max_answers=512, max_generation_s=3_600)
        yield service
        service.close()


@pytest.fixture(scope="module", params=[under_werkzeug, under_waitress])
def plain(request: pytest.FixtureRequest, service: Service) -> Iterator[httpx.Client]:
    """A client of the application under another server."""
    app = create_app(service, Settings(keep_alive_s=0.05))
    with (
        request.param(app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield client


FIXED = {"temperature": 0, "max_tokens": 12}
# What is computed together depends on the moment, and a near tie may then turn: one token is far
# ahead of all others.
FORCED = {**FIXED, "logit_bias": {"300": 100}}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": STORY, **FIXED, "stream": True}),
    ("/v1/chat/completions", {"messages": STORY, **FORCED, "n": 2}),
    ("/v1/completions", {"prompt": ["Once", "A dog"], **FORCED, "echo": True}),
    ("/v1/completions", {"prompt": "Once", **FIXED, "stream": True, "logprobs": 1}),
    ("/completion", {"prompt": "Once", "n_predict": 5, "temperature": 0, "stream": True}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/completions", {"prompt": "a b " * 2000, "stream": True}),
    ("/tokenize", {"content": "Once"}),
]
_CHANGES = re.compile(
    r'"(id|created|[a-z_]*_ms|[a-z_]*_per_second|cache_n|prompt_n|cached_tokens|tokens_cached)":'
    r' ?("[^"]*"|[0-9.e+-]+)'
    r"|-?[0-9]+\.[0-9e+-]+"  # logprobs, whose last digits depend on what was in the cache
    r"|(: keep-alive\n)+"
    r'|,"draft_n(_accepted)?": ?[0-9]+'  # what is checked depends on what was measured
)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_answers_are_the_same(
    plain: httpx.Client, server: Server, path: str, body: dict[str, Any]
) -> None:
    ours = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    theirs = plain.post(path, json=body)
    assert theirs.status_code == ours.status_code, theirs.text
    assert theirs.headers["Content-Type"] == ours.headers["Content-Type"]
    assert _CHANGES.sub("", theirs.text) == _CHANGES.sub("", ours.text)


def test_silence_is_broken_there_too_and_a_client_that_leaves_is_noticed(
    plain: httpx.Client,
) -> None:
    endless = {"messages": STORY, "ignore_eos": True, "stream": True, "n": 4}
    with plain.stream("POST", "/v1/chat/completions", json=endless) as first:
        with plain.stream("POST", "/v1/chat/completions", json=endless) as waiting:
            received = ""
            for text in waiting.iter_text():
                received += text
                if ": keep-alive\n" in received:
                    break
            assert "keep-alive" in received
        for _ in first.iter_raw():
            break
    wait_for_the_places(plain)


def test_an_answer_that_is_cut_off_has_the_right_status_there_too(plain: httpx.Client) -> None:
    response = plain.post("/v1/completions", json={"prompt": [1, 99999]})
    assert response.status_code == 400
    assert json.loads(response.text)["error"]["param"] == "prompt[1]"


def test_a_stream_can_be_taken_up_again_there_too(plain: httpx.Client) -> None:
    body = {"messages": STORY, **FORCED, "max_tokens": 200, "ignore_eos": True}
    headers = {"X-Spillover-Resume": "1"}
    client = Client()
    with plain.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": True}, headers=headers
    ) as response:
        name = response.headers["X-Spillover-Stream"]
        take(client, response.iter_raw(), until=lambda: client.last == 12)
    place = f"/v1/streams/{name}"
    with plain.stream("GET", place, headers={"Last-Event-ID": f"{name}:12"}) as response:
        take(client, response.iter_raw())
    whole = plain.post("/v1/chat/completions", json=body).json()
    assert client.text == whole["choices"][0]["message"]["content"]
    assert client.end == "[DONE]"
    assert plain.get(place, params={"after": client.last}).status_code == 204
    assert plain.get(place, params={"after": client.last + 1}).status_code == 400
    assert plain.delete(place).json()["stopped"] is False


def test_the_worker_is_asked_once_for_all_pieces(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for each distinct token of a text, however many there were."""
    asked: list[Any] = []
    ask = Dispatcher.ask

    def noted(self: Dispatcher, make: Any) -> Any:
        asked.append(make(0))
        return ask(self, make)

    monkeypatch.setattr(Dispatcher, "ask", noted)
    client = create_app(service, Settings()).test_client()
    reply = client.post("/tokenize", json={"content": "Once upon a time", "with_pieces": True})
    assert "".join(token["piece"] for token in reply.get_json()["tokens"]) == "Once upon a time"
    assert len([command for command in asked if isinstance(command, AskBytes)]) == 1
