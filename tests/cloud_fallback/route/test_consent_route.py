"""Nothing leaves the device without a yes, and a yes can be given, refused, or come too late."""

from __future__ import annotations

import threading
from contextlib import closing

import msgspec
import pytest

from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, StreamEvent
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Delta
from spillover.runtime.request import Message
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import Desk, end, handoffs, long, seams, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

REST = " Then a cloud came by. The end."
ASKING = RouteSettings(consent_timeout_s=30, warms_connections=False)


def goes_on_locally(events: list[StreamEvent]) -> bool:
    """Whether the local model took up its own text where the question stopped it, and ended."""
    place = next(i for i, event in enumerate(events) if isinstance(event, ConsentAsked))
    said, whole = text(events[:place]), text(events)
    return whole.startswith(said) and len(whole) > len(said) and end(events).reason == "length"


@pytest.fixture
def desk(make_desk: MakeDesk, fake: Fake) -> Desk:
    fake.script(Act(rest=REST))
    return make_desk(fake, fallback="ask", settings=ASKING)


def test_after_a_yes_the_answer_continues_in_the_cloud(desk: Desk, fake: Fake) -> None:
    def say_yes(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            assert fake.requests == []
            assert event.target.provider == "fake-1"
            assert desk.router.pending_consents()[0].asked == event
            assert desk.router.consent(event.id, True) == "accepted"

    events = desk.ask(long(), hand_over_at=60, on_event=say_yes)
    assert [e.granted for e in events if isinstance(e, ConsentAnswered)] == [True]
    assert len(handoffs(events)) == 1
    assert text(events).endswith(REST.lstrip())


def test_after_a_no_the_local_model_continues_as_if_nothing_had_happened(
    desk: Desk, fake: Fake
) -> None:
    def say_no(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            assert desk.router.consent(event.id, False) == "accepted"

    events = desk.ask(long(), hand_over_at=60, on_event=say_no)
    assert not handoffs(events)
    assert not seams(events)
    assert goes_on_locally(events)
    assert fake.record.accepted == 0


def test_without_a_reply_the_local_model_continues(make_desk: MakeDesk, fake: Fake) -> None:
    hasty = RouteSettings(consent_timeout_s=0.05, warms_connections=False)
    desk = make_desk(fake, fallback="ask", settings=hasty)
    events = desk.ask(long(), hand_over_at=60)
    assert [e.granted for e in events if isinstance(e, ConsentAnswered)] == [None]
    assert goes_on_locally(events)
    assert fake.record.accepted == 0
    asked = next(e for e in events if isinstance(e, ConsentAsked))
    assert desk.router.consent(asked.id, True) == "already_decided"


def test_a_client_that_leaves_while_it_is_asked_has_asked_for_nothing(
    desk: Desk, fake: Fake
) -> None:
    cancellation = Cancellation()
    answer_id, stream = desk.start(long(), cancellation=cancellation)
    events: list[StreamEvent] = []
    with closing(stream):
        for event in stream:
            events.append(event)
            if isinstance(event, Delta) and len(text(events)) > 40 and not handoffs(events):
                desk.router.hand_over(answer_id)
            if isinstance(event, ConsentAsked):
                threading.Timer(0.05, cancellation.cancel).start()
    assert end(events).reason == "cancelled"
    assert fake.record.accepted == 0
    assert desk.router.pending_consents() == []


def test_a_reply_may_be_remembered_for_the_conversation(desk: Desk) -> None:
    def say_yes_for_good(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            desk.router.consent(event.id, True, remember=True)

    first = desk.ask(long(), hand_over_at=60, on_event=say_yes_for_good)
    request = ask()
    messages = (
        *request.messages,
        Message(role="assistant", content=text(first)),
        Message(role="user", content="And then?"),
    )
    second = desk.ask(type(request)(messages=messages, max_tokens=40))
    assert handoffs(second)[0].reason == "sticky"
    assert [e.granted for e in second if isinstance(e, ConsentAnswered)] == [True]


def test_a_remembered_yes_belongs_to_one_owner_and_one_conversation(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """Chats begin with the same words all the time: "Hi"."""
    hasty = RouteSettings(consent_timeout_s=0.05, warms_connections=False)
    desk = make_desk(fake, fallback="ask", settings=hasty)
    fake.script(Act(rest=REST))

    def say_yes_for_good(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            desk.router.consent(event.id, True, remember=True)

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
        assert [e.granted for e in events if isinstance(e, ConsentAnswered)] == [None]
    assert len(fake.requests) == 1


def test_an_answer_that_is_to_stay_here_is_not_handed_over_any_more(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = make_desk(fake)
    answer_id, stream = desk.start(long())
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if isinstance(event, Delta) and desk.router.keep_local(answer_id):
            desk.router.hand_over(answer_id)
    assert not handoffs(events)
    assert end(events).reason == "length"
    assert fake.record.accepted == 0


def test_a_request_can_narrow_what_the_owner_set_but_not_widen_it(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = make_desk(fake, fallback="never")
    for options in (
        RouteOptions(routing=Routing(fallback="auto")),
        RouteOptions(routing=Routing(prefer="cloud")),
    ):
        events = desk.ask(ask(max_tokens=20), options)
        assert not handoffs(events)
    with pytest.raises(InvalidRequest, match="nothing leave"):
        desk.ask(ask(), RouteOptions(routing=Routing(only="cloud_only")))
    assert fake.record.accepted == 0


def test_an_answer_that_is_to_stay_here_comes_back_while_the_cloud_writes(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = make_desk(fake)
    fake.script(Act(rest=" And the cloud said" + " more and more" * 50, hold_after_chunks=25))
    answer_id, stream = desk.start(long())
    events: list[StreamEvent] = []
    asked = kept = False
    for event in stream:
        events.append(event)
        if not asked and len(text(events)) > 60:
            asked = desk.router.hand_over(answer_id)
        if handoffs(events) and not kept and "cloud said" in text(events):
            kept = desk.router.keep_local(answer_id)
    assert [h.target.origin for h in handoffs(events)] == ["cloud", "local"]
    assert handoffs(events)[1].reason == "user"
    assert end(events).reason in ("stop", "length")
    fake.wait_for(ended=1)
