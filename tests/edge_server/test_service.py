"""Answers when our code or the system fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from spillover.cloud_fallback.events import Failed
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.answers.service import Service
from spillover.edge_server.answers.several import Several
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.logs import log_to_stderr
from spillover.edge_server.web import driver
from spillover.edge_server.web.app import create_app
from spillover.edge_server.wire.errors import from_exception
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import DeadlyRequest, EngineBusy, InvalidRequest
from spillover.runtime.events import Delta, EngineEvent, Finished, FinishReason, Timings, Usage
from spillover.runtime.request import GenerationRequest, Message

SECRET = "my diary says so"
REQUEST = GenerationRequest(messages=(Message(role="user", content="Hello"),))


class Broken:
    """An engine with a defect, whose error quotes the prompt."""

    name = "broken"
    card = SimpleNamespace(n_parallel=2, name="broken")

    def __init__(self, n_before: int) -> None:
        self._n_before = n_before

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        for _ in range(self._n_before):
            yield Delta(text="Once ")
        raise KeyError(SECRET)


class Patient(Broken):
    """An engine that goes on until it is cancelled."""

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        assert cancellation is not None
        stopped = threading.Event()
        cancellation.subscribe(stopped.set)
        yield Delta(text="Once ")
        assert stopped.wait(30)


class Ending(Patient):
    """An engine that ends its answer with *reason* when it is cancelled."""

    def __init__(self, reason: FinishReason) -> None:
        super().__init__(0)
        self._reason = reason

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        yield from super().stream(request, cancellation)
        yield Finished(
            reason=self._reason,
            usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1),
            timings=Timings(queue_ms=0, prefill_ms=0, decode_ms=0),
        )


class Refusing(Broken):
    """An engine that takes its time to refuse a request."""

    def __init__(self) -> None:
        super().__init__(0)
        self.may_refuse = threading.Event()

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        assert self.may_refuse.wait(60)
        raise InvalidRequest("the prompt is too long", "messages")
        yield  # a generator


def service_of(engine: Any, settings: Settings | None = None) -> Service:
    settings = settings or Settings()
    return Service(
        engine,
        Router(engine, CloudSettings(), None),
        max_answers=settings.max_connections,
        max_generation_s=settings.max_generation_s,
    )


def last_event(source: Any) -> Any:
    events: list[Any] = []
    ended = False
    while not ended:
        source.log.wait(len(events))
        events, ended = source.log.read(0)
    return events[-1]


def test_a_defect_in_mid_answer_is_logged_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = service_of(Broken(2))
    failed = last_event(service.start(REQUEST, RouteOptions(id="a")))
    assert failed == Failed(code="internal_error", message="internal error (KeyError)")
    assert "an answer broke off after KeyError" in caplog.text
    assert "in stream" in caplog.text
    assert SECRET not in caplog.text


def test_a_defect_of_one_of_several_answers_keeps_its_insides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later answer's error used to be sent to the client verbatim."""
    service = service_of(Patient(0))
    start, n_started = service.start, 0

    def break_the_second(
        request: GenerationRequest, options: RouteOptions, model: ServedModel
    ) -> Any:
        nonlocal n_started
        n_started += 1
        if n_started > 1:
            raise KeyError(SECRET)
        return start(request, options, model)

    monkeypatch.setattr(service, "start", break_the_second)
    failed = last_event(Several(service, [REQUEST, REQUEST], RouteOptions(id="a")))
    assert failed == Failed(code="internal_error", message="internal error (KeyError)")


def test_a_defect_in_a_view_is_a_500_that_is_logged_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It used not to be logged at all."""
    engine = Broken(0)
    client = create_app(service_of(engine), Settings()).test_client()
    answer = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]}
    )
    assert answer.status_code == 500
    assert "POST /v1/chat/completions failed after KeyError" in caplog.text
    assert SECRET not in caplog.text + answer.text


def test_a_refusal_after_the_head_of_a_stream_is_its_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "DECISION_S", 0.0)
    engine = Refusing()
    client = create_app(service_of(engine), Settings()).test_client()
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    engine.may_refuse.set()
    assert "the prompt is too long" in answer.text
    assert "[DONE]" not in answer.text


def test_a_refusal_in_time_is_a_status() -> None:
    engine = Refusing()
    engine.may_refuse.set()
    client = create_app(service_of(engine), Settings()).test_client()
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    for extra in ({}, {"stream": True}, {"stream": True, "spillover": {"resume": True}}):
        answer = client.post("/v1/chat/completions", json={**body, **extra})
        assert answer.status_code == 400
        assert answer.get_json()["error"]["param"] == "messages"


def test_a_deadly_request_is_an_error_that_clients_do_not_repeat() -> None:
    error = from_exception(DeadlyRequest("it ended its worker"))
    assert error.status == 500
    assert error.headers == {"X-Should-Retry": "false"}


def test_an_answer_without_a_thread_is_refused_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It used to count as running forever."""
    service = service_of(Broken(1))

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(EngineBusy, match="no thread is left"):
            service.start(REQUEST, RouteOptions(id="a"))
    assert service.n_running == 0


def test_an_answer_that_takes_too_long_says_so() -> None:
    """It used to look as if somebody had cancelled it."""
    settings = Settings(max_generation_s=0.05)
    client = create_app(service_of(Ending("cancelled"), settings), settings).test_client()
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    for is_stream in (True, False):
        text = client.post("/v1/chat/completions", json={**body, "stream": is_stream}).text
        assert "ended after 0.05 s" in text
        assert "cancelled" not in text
        assert "[DONE]" not in text


def test_an_answer_that_ends_as_its_time_is_over_is_whole() -> None:
    """A failure used to follow its last event."""
    service = service_of(Ending("stop"), Settings(max_generation_s=0.05))
    assert isinstance(last_event(service.start(REQUEST, RouteOptions(id="a"))), Finished)


@pytest.fixture
def our_level() -> Generator[logging.Logger]:
    ours = logging.getLogger("spillover")
    level = ours.level
    yield ours
    ours.setLevel(level)


def test_the_log_level_is_that_of_our_own_messages(our_level: logging.Logger) -> None:
    """The setting used to change nothing."""
    log_to_stderr("error")
    assert not logging.getLogger("spillover.edge_server").isEnabledFor(logging.WARNING)
    log_to_stderr("debug")
    assert logging.getLogger("spillover.edge_server").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("httpcore").isEnabledFor(logging.INFO)
