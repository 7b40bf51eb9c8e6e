"""What a reply holds for, and what happens to clients that cannot be asked."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from spillover.cloud_fallback.events import ConsentAsked, StreamEvent
from spillover.cloud_fallback.privacy.standing import FILE_NAME, StandingConsents
from spillover.cloud_fallback.route.allowed import Fallback, Routing
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import Message
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.consent.asking import (
    ASKING,
    CLOUDS,
    FOX,
    REST,
    Replier,
    asked,
    replies,
    turn,
)
from tests.cloud_fallback.route.desk import OUT_OF_MEMORY, Desk, handoffs, long, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act


def test_a_reply_may_be_remembered_for_the_conversation(desk: Desk) -> None:
    def say_yes_for_good(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            desk.router.consent(event.id, True, scope="chat")

    first = desk.ask(long(), hand_over_at=60, on_event=say_yes_for_good)
    request = ask()
    messages = (
        *request.messages,
        Message(role="assistant", content=text(first)),
        Message(role="user", content="And then?"),
    )
    second = desk.ask(type(request)(messages=messages, max_tokens=40))
    assert handoffs(second)[0].reason == "sticky"
    assert not asked(second)


def test_a_remembered_yes_belongs_to_one_owner_and_one_conversation(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """Chats begin with the same words all the time: "Hi"."""
    hasty = RouteSettings(consent_timeout_s=0.05, warms_connections=False)
    desk = make_desk(fake, fallback="ask", settings=hasty)
    fake.script(Act(rest=REST))

    def say_yes_for_good(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            desk.router.consent(event.id, True, scope="chat")

    desk.ask(long(), hand_over_at=60, on_event=say_yes_for_good, owner="anna")
    assert len(fake.requests) == 1
    second = msgspec.structs.replace(
        long(),
        messages=(
            *ask().messages,
            Message(role="assistant", content="Once."),
            Message(role="user", content="And then?"),
        ),
    )
    others = [
        desk.ask(second, hand_over_at=40, owner="ben"),
        desk.ask(long(), hand_over_at=40, owner="ben"),
        desk.ask(long(), hand_over_at=40, owner="anna"),
    ]
    for events in others:
        assert replies(events) == [None]
    assert len(fake.requests) == 1


def test_after_a_no_the_next_turn_does_not_ask_again_for_the_same_reason(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    first = desk.ask(turn(FOX), on_event=Replier(desk, False))
    again = desk.ask(turn(FOX, "More of the fox."), on_event=Replier(desk, False))
    desk.reading = OUT_OF_MEMORY
    other = desk.ask(turn(FOX, "And then?"), on_event=Replier(desk, False))
    new = desk.ask(turn(FOX), on_event=Replier(desk, False))
    reasons = [[question.reason for question in asked(events)] for events in (first, again, other)]
    assert reasons == [["rule"], [], ["memory"]]
    assert [question.reason for question in asked(new)] == ["rule"]
    assert fake.record.accepted == 0


@pytest.mark.parametrize("granted", [True, False])
def test_always_and_never_hold_for_all_answers_and_survive_the_program(
    make_desk: MakeDesk, fake: Fake, granted: bool
) -> None:
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    desk.ask(turn(FOX), on_event=Replier(desk, granted, scope="always"))
    n = len(fake.requests)
    later = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    events = later.ask(turn("Another fox."))
    assert not asked(events)
    assert bool(handoffs(events)) == granted
    assert len(fake.requests) - n == granted
    hers = later.ask(turn("Another fox."), owner="anna", on_event=Replier(later, False))
    assert len(asked(hers)) == 1


def test_what_was_decided_for_good_can_be_forgotten(make_desk: MakeDesk, fake: Fake) -> None:
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    desk.ask(turn(FOX), on_event=Replier(desk, True, scope="always"))
    path = desk.resources.data_dir
    assert path is not None
    assert StandingConsents(path / FILE_NAME).forget("fake-1") == 1
    assert len(asked(desk.ask(turn("Another fox."), on_event=Replier(desk, False)))) == 1


def test_never_for_one_provider_leaves_the_others(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], fake: Fake
) -> None:
    other = make_fake()
    other.script(Act(text="Written next door."))
    desk = make_desk(fake, other, fallback="ask", settings=ASKING, policy=CLOUDS)
    desk.ask(turn(FOX), on_event=Replier(desk, False, scope="always"))
    events = desk.ask(turn("Another fox."), on_event=Replier(desk, True))
    assert [question.target.provider for question in asked(events)] == ["fake-2"]
    assert text(events) == "Written next door."
    assert fake.record.accepted == 0


@pytest.mark.parametrize(
    ("unasked", "wanted", "outcome"),
    [
        ("never", None, "local"),
        ("auto", None, "cloud"),
        ("ask", None, "asked"),
        ("auto", "ask", "local"),
        ("ask", "ask", "asked"),
    ],
)
def test_a_setting_says_what_happens_to_clients_that_cannot_be_asked(
    make_desk: MakeDesk, fake: Fake, unasked: Fallback, wanted: Fallback | None, outcome: str
) -> None:
    desk = make_desk(fake, fallback="ask", fallback_unasked=unasked, settings=ASKING, policy=CLOUDS)
    options = RouteOptions(can_answer=False, routing=Routing(fallback=wanted))
    events = desk.ask(turn(FOX), options, on_event=Replier(desk, False))
    found = "asked" if asked(events) else "cloud" if handoffs(events) else "local"
    assert found == outcome
    assert bool(fake.requests) == (outcome == "cloud")


def test_who_cannot_be_asked_is_told_that_nobody_may_answer(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = make_desk(fake, fallback="ask", settings=ASKING)
    options = RouteOptions(can_answer=False, routing=Routing(only="cloud_only"))
    with pytest.raises(InvalidRequest, match="cannot show a question"):
        desk.ask(ask(), options)
