"""A dialect is one module and one row: here a made-up one, with its own stream, body and errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask
from msgspec import Struct
from werkzeug.test import TestResponse

from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.router import Router
from spillover.edge_server.answers.answer import LiveAnswer
from spillover.edge_server.answers.event_log import EventSource
from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.app import create_app
from spillover.edge_server.web.bridge import Bridge
from spillover.edge_server.web.connection import Connection
from spillover.edge_server.web.connections import Connections
from spillover.edge_server.web.driver import drive_in_thread, drive_on_loop
from spillover.edge_server.web.loop_reader import LoopCalls
from spillover.edge_server.wire.dialect import (
    AnswerPlan,
    AnswerRequest,
    CallBuffer,
    Choice,
    Endpoint,
    StreamEncoder,
    WholeEncoder,
)
from spillover.edge_server.wire.endpoints import ENDPOINTS
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineBusy
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    Prefilling,
    Timings,
    ToolCallDelta,
    Usage,
)
from spillover.runtime.request import GenerationRequest

# The dialect's module.


class SayBody(Struct):
    about: str
    bit_by_bit: bool = False


def say_error(error: WireError) -> bytes:
    return json.dumps({"oops": str(error), "number": error.status}).encode()


class Lines(StreamEncoder):
    error_body = staticmethod(say_error)
    headers = {"Content-Type": "text/x-say"}  # noqa: RUF012

    def silence(self) -> bytes:
        return b"\n"

    def feed(self, event: StreamEvent) -> bytes:
        return event.text.encode() + b"\n" if isinstance(event, Delta) else b""

    def empty_event(self) -> bytes:
        return b"\n"


class Text(WholeEncoder):
    error_body = staticmethod(say_error)

    def body(self) -> bytes:
        return json.dumps({"said": "".join(self.choices[0].text)}).encode()


class Loud(Text):
    def body(self) -> bytes:
        return super().body().upper()


def plan(asked: AnswerRequest) -> AnswerPlan:
    body = decode(asked.content, SayBody)
    whole = Loud if asked.path.get("voice") == "loud" else Text
    return AnswerPlan(
        requests=(GenerationRequest(prompt=body.about),),
        encoder=Lines() if body.bit_by_bit else whole([Choice()]),
        options=asked.options,
    )


# The row.
SAY = Endpoint(
    paths=("/say", "/say/<voice>:aloud"), plan=plan, error_body=say_error, prefixes=("/say/",)
)

KEY = "the key of the house"
SETTINGS = Settings(api_keys=(KEY,), max_body_bytes=1_024)


class Speaker:
    """An engine that writes two words, or is busy."""

    name = "speaker"
    card = SimpleNamespace(n_parallel=1, name="speaker")

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        if request.prompt == "much":
            raise EngineBusy("too much", 3)
        yield Delta(text="Hello")
        yield Delta(text=" there")
        if request.prompt == "defects":
            raise KeyError("a secret")
        yield Finished(
            reason="stop",
            usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=2),
            timings=Timings(queue_ms=0, prefill_ms=0, decode_ms=0),
        )


@pytest.fixture
def app() -> Flask:
    engine: Any = Speaker()
    service = Service(
        engine, Router(engine, CloudSettings(), None), max_answers=1, max_generation_s=9
    )
    return create_app(service, SETTINGS, (*ENDPOINTS, SAY))


def ask(app: Flask, path: str = "/say", method: str = "POST", **changes: Any) -> TestResponse:
    headers = {"X-Api-Key": KEY} | changes.pop("headers", {})
    options = {"json": {"about": "you"}} | changes
    return app.test_client().open(path, method=method, headers=headers, **options)


def test_its_answers_come_whole_and_bit_by_bit(app: Flask) -> None:
    assert ask(app).json == {"said": "Hello there"}
    stream = ask(app, json={"about": "you", "bit_by_bit": True})
    assert stream.headers["Content-Type"] == "text/x-say"
    assert stream.data == b"\nHello\n there\n"


def test_a_part_of_its_path_reaches_the_plan(app: Flask) -> None:
    assert ask(app, "/say/loud:aloud").json == {"SAID": "HELLO THERE"}
    assert ask(app, "/say/soft:aloud").json == {"said": "Hello there"}


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (400, {"json": {"abut": "you"}}),
        (401, {"headers": {"X-Api-Key": "no key of ours"}}),
        (403, {"headers": {"Host": "evil.example"}}),
        (404, {"path": "/say/nothing"}),
        (405, {"method": "GET"}),
        (413, {"json": {"about": "x" * 2_000}}),
        (415, {"json": None, "data": "you", "headers": {"Content-Type": "text/plain"}}),
        (429, {"json": {"about": "much"}}),
        (500, {"json": {"about": "defects"}}),
    ],
)
def test_all_errors_at_its_paths_have_its_shape(
    app: Flask, status: int, changes: dict[str, Any]
) -> None:
    reply = ask(app, **changes)
    assert reply.status_code == status
    assert set(reply.json or ()) == {"oops", "number"}
    assert reply.headers["Content-Type"] == "application/json"
    assert "secret" not in reply.text
    assert ("Retry-After" in reply.headers) == (status == 429)


def test_errors_elsewhere_keep_their_shape(app: Flask) -> None:
    for path in ("/v1/chat/completions", "/completion", "/sayings", "/nothing"):
        assert set(ask(app, path, headers={"Host": "evil.example"}).json or ()) == {"error"}


@pytest.mark.parametrize("target", [b"/say?x=1", b"http://localhost/say", b"/s%61y"])
def test_errors_before_the_application_have_its_shape_too(app: Flask, target: bytes) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 2_000, "more_body": not sent}

    async def send(message: Any) -> None:
        sent.append(message)

    nobody: Any = None

    async def run() -> None:
        bridge = Bridge(app, nobody, SETTINGS, Connections(1), (*ENDPOINTS, SAY))
        scope = {"type": "http", "method": "POST", "raw_path": target, "http_version": "1.1",
                 "headers": []}  # fmt: skip
        await bridge(scope, receive, send)
        bridge.close()

    asyncio.run(run())
    assert sent[0]["status"] == 413
    assert set(json.loads(sent[1]["body"])) == {"oops", "number"}


class Sent:
    """A connection that takes what it is sent."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    async def start(self, status: int, headers: object) -> None:
        assert status == 200

    async def write(self, chunk: bytes) -> None:
        self._take(chunk)

    finish = write


def in_a_thread(answer: LiveAnswer, take: Callable[[bytes], None], keep_alive_s: float) -> None:
    for chunk in drive_in_thread(answer, keep_alive_s):
        take(chunk)


def on_the_loop(answer: LiveAnswer, take: Callable[[bytes], None], keep_alive_s: float) -> None:
    async def drive() -> None:
        calls, connection = LoopCalls(asyncio.get_running_loop()), cast("Connection", Sent(take))
        await drive_on_loop(answer, connection, calls, keep_alive_s)

    asyncio.run(drive())


@pytest.mark.parametrize("drive", [in_a_thread, on_the_loop])
def test_a_client_that_is_shown_nothing_of_what_happens_gets_signs_of_life(
    drive: Callable[[LiveAnswer, Callable[[bytes], None], float], None],
) -> None:
    """While a long prompt was read, or a reasoning written that is not shown, it got nothing."""
    source, seen = EventSource("1"), threading.Event()
    received: list[bytes] = []

    def take(chunk: bytes) -> None:
        received.append(chunk)
        if received.count(b"\n") == 4:
            seen.set()

    def write() -> None:
        for n in range(500):
            source.log.append(Prefilling(n_read=n, n_cached=0, n_prompt_tokens=500))
            if seen.wait(0.01):
                break
        source.log.append(Delta(text="Hello"))
        source.log.close()

    writer = threading.Thread(target=write)
    writer.start()
    drive(LiveAnswer(source, Lines(), None), take, 0.05)
    writer.join()
    assert received.count(b"\n") >= 4
    assert b"Hello\n" in received


def test_a_tool_call_is_put_together_when_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its parts so far were joined again for each of its tokens."""
    n_joined = 0
    calls = Choice.calls

    def counted(self: Choice) -> Any:
        nonlocal n_joined
        n_joined += 1
        return calls(self)

    monkeypatch.setattr(Choice, "calls", counted)
    buffer = CallBuffer()
    complete = [
        call
        for index in (0, 1)
        for part in "abc"
        for call in buffer.add(ToolCallDelta(index=index, id=f"c{index}", arguments=part))
    ]
    assert [call.arguments for call in complete + buffer.rest()] == ["abc", "abc"]
    assert n_joined == 2
