"""Text that is kept back in doubt when the local engine breaks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Delta, EngineEvent
from spillover.runtime.local_engine import LocalEngine
from tests.cloud_fallback.route.desk import (
    CALM,
    DOUBTS,
    Breaking,
    Desk,
    end,
    handoffs,
    long,
    provider,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act


@pytest.fixture
def make_breaking(engine: LocalEngine, fake: Fake, tmp_path: Path) -> Iterable[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(**policy: Any) -> Desk:
        breaking: Any = Breaking(engine)
        settings = PolicySettings(**DOUBTS, **policy)
        desks.append(Desk(breaking, tmp_path, [provider(fake)], policy=settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def said(engine: LocalEngine, make_breaking: Callable[..., Desk]) -> str:
    """What the engine says before it breaks."""
    events: list[EngineEvent] = []
    request = long()
    with closing(engine.stream(request)) as stream:
        for event in stream:
            events.append(event)
            if sum(isinstance(event, Delta) for event in events) == Breaking.n_deltas:
                break
    return text(events)


@pytest.mark.parametrize("switched_off", [(), ("crash",)])
def test_held_text_is_sent_before_the_end_when_no_writer_continues(
    make_breaking: Callable[..., Desk], fake: Fake, said: str, switched_off: tuple[str, ...]
) -> None:
    """It used to be lost: the answer broke off with its first few words."""
    desk = make_breaking(switched_off=switched_off)
    fake.script(Act(refusal="auth"))
    events = desk.ask(long())
    assert text(events) == said
    assert end(events).reason == "interrupted"


def test_held_text_does_not_interfere_when_a_writer_continues(
    make_breaking: Callable[..., Desk], fake: Fake, said: str
) -> None:
    desk = make_breaking()
    fake.script(Act(rest=" And so it ended."))
    events = desk.ask(long())
    (handoff,) = handoffs(events)
    assert handoff.reason == "crash"
    shown = text(events[: events.index(handoff)])
    assert said.startswith(shown)
    assert text(events) == shown + " And so it ended."


@pytest.mark.parametrize("policy", [CALM, PolicySettings(**DOUBTS)])
def test_a_request_that_is_refused_in_mid_answer_still_ends(
    engine: LocalEngine, fake: Fake, tmp_path: Path, said: str, policy: PolicySettings
) -> None:
    """The stream used to break off with the error."""
    breaking: Any = Breaking(engine, InvalidRequest("this cannot be continued"))
    desk = Desk(breaking, tmp_path, [provider(fake)], policy=policy)
    fake.script(Act(refusal="auth"))
    try:
        events = desk.ask(long())
    finally:
        desk.close()
    assert text(events) == said
    assert end(events).reason == "interrupted"


def test_a_defect_at_the_seam_leaves_no_local_stream_behind(
    engine: LocalEngine, desk: Desk, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to run on for as long as anybody kept the error."""
    n_running = []
    stream = engine.stream

    def watched(*args: Any) -> Generator[EngineEvent]:
        n_running.append(1)
        with closing(stream(*args)) as events:
            try:
                yield from events
            finally:
                n_running.pop()

    def broken(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(engine, "stream", watched)
    monkeypatch.setattr("spillover.cloud_fallback.route.joint.Joint.feed", broken)
    fake.script(Act(refusal="auth"))
    with pytest.raises(KeyError) as kept:
        desk.ask(long(), hand_over_at=60)
    assert n_running == []
    assert kept.value is not None
