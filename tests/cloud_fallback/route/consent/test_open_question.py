"""The local model goes on while a question is open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from spillover.cloud_fallback.errors import Overloaded
from spillover.cloud_fallback.events import ConsentAsked, StreamEvent
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.availability.breaker import Permit
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.runtime.events import EngineEvent
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.consent.asking import (
    ASKING,
    CLOUDS,
    FOX,
    REPLACING,
    REST,
    Replier,
    asked,
    replies,
)
from tests.cloud_fallback.route.desk import Desk, end, handoffs, joined, long, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act


def test_the_local_model_goes_on_while_the_question_is_open(desk: Desk, fake: Fake) -> None:
    """The answer used to stand still for as long as the user thought about it."""
    events = desk.ask(long(), hand_over_at=60, on_event=Replier(desk, True, after=80))
    before = events[: events.index(asked(events)[0])]
    there = events[: events.index(handoffs(events)[0])]
    assert len(text(there)) >= len(text(before)) + 80
    assert text(events) == joined(text(there), REST)


def test_after_a_no_it_is_still_the_same_stream(desk: Desk) -> None:
    """The model used to be stopped for the question, and to read its own answer again."""
    events = desk.ask(long(), hand_over_at=60, on_event=Replier(desk, False, after=80))
    assert replies(events) == [False]
    assert end(events).usage.completion_tokens == 600
    assert not end(events).usage.legs


def test_an_answer_that_ends_meanwhile_needs_no_reply(desk: Desk, fake: Fake) -> None:
    replier = Replier(desk, True, after=10_000)
    events = desk.ask(long(max_tokens=60), hand_over_at=60, on_event=replier)
    assert replies(events) == [None]
    assert end(events).reason == "length"
    assert desk.router.consent(replier.question, True) == "too_late"
    assert desk.router.pending_consents() == []
    assert fake.record.accepted == 0


def end_of_local(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set when the local model has written the next answer to its end."""
    local, ended = desk.router.local.engine, threading.Event()
    stream = local.stream

    def noted(*given: Any) -> Iterator[EngineEvent]:
        yield from stream(*given)
        ended.set()

    monkeypatch.setattr(local, "stream", noted)
    return ended


@pytest.mark.parametrize("options", [RouteOptions(), REPLACING], ids=["held", "taken back"])
def test_text_that_is_not_kept_takes_nothing_from_max_tokens(
    make_desk: MakeDesk, fake: Fake, monkeypatch: pytest.MonkeyPatch, options: RouteOptions
) -> None:
    """The provider's answer was cut, or it was not asked any more in spite of the yes."""
    fake.script(Act(text="A tale of the cloud's own."))
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    ended = end_of_local(desk, monkeypatch)
    _id, stream = desk.start(ask(FOX, max_tokens=20, ignore_eos=True), options)
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if isinstance(event, ConsentAsked):
            assert ended.wait(60)
            desk.router.consent(event.id, True)
    assert replies(events) == [True]
    assert text(events) == "A tale of the cloud's own."
    assert end(events).reason == "stop"


def test_a_question_about_a_provider_that_failed_meanwhile_is_ended(
    make_desk: MakeDesk, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client waited for the event to the end."""
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    ended = end_of_local(desk, monkeypatch)
    _id, stream = desk.start(ask(FOX, max_tokens=20))
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if isinstance(event, ConsentAsked):
            assert ended.wait(60)
            permit = desk.resources.breakers.acquire("fake-1")
            assert isinstance(permit, Permit)
            permit.failure(Overloaded("fake-1", "for the test"))
    assert replies(events) == [None]
    assert events[-1] == end(events)


@pytest.mark.parametrize("granted", [True, False])
def test_text_that_is_not_wanted_is_held_back_for_a_client_that_keeps_all_it_gets(
    make_desk: MakeDesk, fake: Fake, monkeypatch: pytest.MonkeyPatch, granted: bool
) -> None:
    fake.script(Act(text="A tale of the cloud's own."))
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    alone = desk.ask(ask(FOX, max_tokens=60), RouteOptions(routing=Routing(only="local_only")))
    ended = end_of_local(desk, monkeypatch)
    _id, stream = desk.start(ask(FOX, max_tokens=60))
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if isinstance(event, ConsentAsked):
            assert ended.wait(60)
            desk.router.consent(event.id, granted)
        if not replies(events):
            assert not text(events)
    assert text(events) == ("A tale of the cloud's own." if granted else text(alone))
    assert replies(events) == [granted]


@pytest.mark.parametrize("granted", [True, False, None])
def test_an_answer_that_was_to_begin_in_the_cloud_does_not_end_before_the_reply(
    make_desk: MakeDesk, fake: Fake, monkeypatch: pytest.MonkeyPatch, granted: bool | None
) -> None:
    """What the local model wrote meanwhile used to stand if it ended first."""
    fake.script(Act(text="A tale of the cloud's own."))
    timeout_s = 30 if granted is not None else 0.5
    settings = RouteSettings(consent_timeout_s=timeout_s, warms_connections=False)
    desk = make_desk(fake, fallback="ask", settings=settings)
    request = ask(FOX, max_tokens=20)
    alone = desk.ask(request, RouteOptions(routing=Routing(only="local_only")))
    ended = end_of_local(desk, monkeypatch)
    _id, stream = desk.start(request, RouteOptions(routing=Routing(prefer="cloud")))
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if isinstance(event, ConsentAsked) and granted is not None:
            assert ended.wait(60)
            desk.router.consent(event.id, granted)
    assert replies(events) == [granted]
    assert text(events) == ("A tale of the cloud's own." if granted else text(alone))
    assert len(fake.requests) == (granted is True)


def test_a_client_that_can_take_text_back_sees_it_meanwhile(
    make_desk: MakeDesk, fake: Fake
) -> None:
    fake.script(Act(text="A tale of the cloud's own."))
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    replier = Replier(desk, True, after=40)
    events = desk.ask(ask(FOX, max_tokens=600, ignore_eos=True), REPLACING, on_event=replier)
    assert len(text(events[: events.index(handoffs(events)[0])])) >= 40
    assert text(events) == "A tale of the cloud's own."
