"""A worker that hangs or loads for ever holds no answer: the cloud goes on without it.

The workers are really stopped, and nobody but the test would end them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from spillover.cloud_fallback.events import ConsentAsked, HandoffMode, StreamEvent
from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.models.catalogue import default_model
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.supervision import supervisor
from tests.answers import ask, worker_of
from tests.cloud_fallback.route.desk import (
    CALM,
    OUT_OF_MEMORY,
    Desk,
    end,
    handoffs,
    joined,
    long,
    provider,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act
from tests.measured import measured
from tests.waiting import wait_until

REST = " Then a cloud came by. The end."
WHOLE = "A tale of the cloud's own."
NEVER_S = 120.0
HASTY = msgspec.structs.replace(CALM, stall_s=0.3)
PATIENT = msgspec.structs.replace(
    CALM, stall_s=NEVER_S, queue_s=NEVER_S, first_token_s=NEVER_S, sensor_dwell=1
)


@contextmanager
def an_engine(folder: Path, hang_timeout_s: float = NEVER_S) -> Iterator[LocalEngine]:
    options = EngineOptions(cache_dir=measured(folder), n_threads=1, hang_timeout_s=hang_timeout_s)
    with LocalEngine(Path(default_model().path), options, name="storyteller") as engine:
        yield engine


@contextmanager
def stopped(engine: LocalEngine) -> Iterator[int]:
    """The engine's worker, which does nothing while the block runs."""
    pid = worker_of(engine)
    os.kill(pid, signal.SIGSTOP)
    # A thread that comes before the one that takes the signal may still respond.
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    try:
        yield pid
        assert engine.worker_pid == pid
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    with an_engine(tmp_path_factory.mktemp("cache")) as engine:
        engine.wait_ready(60)
        yield engine


MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk(fake: Fake, tmp_path: Path) -> Iterator[MakeDesk]:
    desks = []

    def make(
        engine: LocalEngine,
        policy: PolicySettings,
        mode: HandoffMode = "continue",
        fallback: str = "auto",
    ) -> Desk:
        fake.script(Act(text=WHOLE, rest=REST))
        settings = RouteSettings(warms_connections=False, mode=mode, grace_s=NEVER_S)
        desk = Desk(
            engine,
            tmp_path,
            [provider(fake, "fake-1")],
            policy=policy,
            settings=settings,
            fallback=fallback,
        )
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        desk.close()


def stopped_in_mid_answer(
    desk: Desk, engine: LocalEngine, then: Callable[[str], object] = lambda _: None
) -> list[StreamEvent]:
    """The events of an answer whose worker is stopped after sixty characters for good."""
    answer_id, stream = desk.start(long())
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if len(text(events)) > 60:
            break
    with stopped(engine):
        then(answer_id)
        events += stream
    return events


def reason_of(events: list[StreamEvent]) -> str:
    """Why the answer was handed over, once, to a cloud that ended it."""
    (handoff,) = handoffs(events)
    assert handoff.target.provider == "fake-1"
    said = text(events[: events.index(handoff)])
    assert text(events) == joined(said, REST)
    assert end(events).reason == "stop"
    return handoff.reason


@pytest.mark.parametrize("mode", ["continue", "finish_sentence", "at_turn"])
def test_a_worker_that_falls_silent_is_left_alone(
    make_desk: MakeDesk, engine: LocalEngine, mode: HandoffMode
) -> None:
    """The cloud used to wait a minute for the worker's last word; and in the other modes for the
    end of a sentence that nobody wrote, or for the next turn."""
    desk = make_desk(engine, HASTY, mode)
    assert reason_of(stopped_in_mid_answer(desk, engine)) == "slow"


def test_the_user_need_not_wait_for_a_worker_that_hangs(
    make_desk: MakeDesk, engine: LocalEngine
) -> None:
    desk = make_desk(engine, PATIENT)
    assert reason_of(stopped_in_mid_answer(desk, engine, desk.router.hand_over)) == "user"


def test_a_reading_of_the_sensors_needs_no_worker(make_desk: MakeDesk, engine: LocalEngine) -> None:
    desk = make_desk(engine, PATIENT)

    def run_out_of_memory(_: str) -> None:
        desk.reading = OUT_OF_MEMORY

    assert reason_of(stopped_in_mid_answer(desk, engine, run_out_of_memory)) == "memory"


def test_the_user_is_asked_and_replies_though_the_worker_hangs(
    make_desk: MakeDesk, engine: LocalEngine
) -> None:
    desk = make_desk(engine, HASTY, fallback="ask")
    _id, stream = desk.start(long())
    events: list[StreamEvent] = []
    while len(text(events)) <= 60:
        events.append(next(stream))
    with stopped(engine):
        for event in stream:
            events.append(event)
            if isinstance(event, ConsentAsked):
                desk.router.consent(event.id, True)
    assert reason_of(events) == "slow"


def test_an_answer_begins_in_the_cloud_if_the_worker_does_not_respond(
    make_desk: MakeDesk, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be given to the worker that hung."""
    monkeypatch.setattr(supervisor, "STATUS_TIMEOUT_S", 0.05)
    desk = make_desk(engine, PATIENT)
    with stopped(engine):
        events = desk.ask(long())
    assert [handoff.reason for handoff in handoffs(events)] == ["crash"]
    assert text(events) == WHOLE


def test_the_next_answer_is_local_again_once_the_worker_responds(
    make_desk: MakeDesk, engine: LocalEngine
) -> None:
    desk = make_desk(engine, HASTY)
    stopped_in_mid_answer(desk, engine)
    events = desk.ask(ask("Another story.", max_tokens=20))
    assert not handoffs(events)
    assert end(events).usage.completion_tokens == 20


def test_an_answer_comes_back_to_a_worker_that_hangs_and_is_replaced(
    make_desk: MakeDesk, fake: Fake, tmp_path: Path
) -> None:
    with an_engine(tmp_path, hang_timeout_s=2.0) as engine:
        engine.wait_ready(60)
        desk = make_desk(engine, PATIENT)
        fake.script(Act(rest=REST, cut_after_chunks=5, cut="reset"))
        answer_id, stream = desk.start(long(max_tokens=100))
        events: list[StreamEvent] = []
        hung = 0
        for event in stream:
            events.append(event)
            if len(text(events)) > 60 and not handoffs(events):
                desk.router.hand_over(answer_id)
            if handoffs(events) and not hung:
                hung = worker_of(engine)
                os.kill(hung, signal.SIGSTOP)
        # A worker that is known to hang gives the answer away once more.
        there_and_back = [handoff.target.origin for handoff in handoffs(events)]
        assert there_and_back in (["cloud", "local"], ["cloud", "local"] * 2)
        assert end(events).reason == "length"
        assert worker_of(engine) != hung


@contextmanager
def loading(folder: Path) -> Iterator[LocalEngine]:
    """An engine whose worker has been stopped while it loads."""
    with an_engine(folder) as engine, stopped(engine):
        yield engine


def test_a_model_that_loads_for_too_long_is_not_waited_for(
    make_desk: MakeDesk, tmp_path: Path
) -> None:
    """Nothing was watched before the model was there."""
    with loading(tmp_path) as engine:
        desk = make_desk(engine, msgspec.structs.replace(CALM, queue_s=0.3))
        events = desk.ask(long())
    assert [handoff.reason for handoff in handoffs(events)] == ["queue"]
    assert text(events) == WHOLE


def test_the_owners_rules_hold_while_the_model_loads(make_desk: MakeDesk, tmp_path: Path) -> None:
    rule = PromptRule(name="foxes", words=("fox",))
    with loading(tmp_path) as engine:
        desk = make_desk(engine, msgspec.structs.replace(PATIENT, rules=(rule,)))
        events = desk.ask(ask("Tell me a story about a fox."))
    assert [handoff.reason for handoff in handoffs(events)] == ["rule"]
