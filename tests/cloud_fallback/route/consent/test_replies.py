"""Nothing leaves the device without a yes, and a yes can be given, refused, or come too late."""

from __future__ import annotations

import threading
from contextlib import closing

import msgspec
import pytest

from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, StreamEvent
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Delta
from spillover.runtime.local_engine import LocalEngine
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.consent.asking import ASKING, REST, asked, replies
from tests.cloud_fallback.route.desk import (
    CALM,
    DOUBTS,
    OUT_OF_MEMORY,
    Desk,
    end,
    handoffs,
    long,
    looping,
    seams,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act


def goes_on_locally(events: list[StreamEvent]) -> bool:
    """Whether the local model took up its own text where the question stopped it, and ended."""
    place = next(i for i, event in enumerate(events) if isinstance(event, ConsentAsked))
    said, whole = text(events[:place]), text(events)
    return whole.startswith(said) and len(whole) > len(said) and end(events).reason == "length"


def test_after_a_yes_the_answer_continues_in_the_cloud(desk: Desk, fake: Fake) -> None:
    def say_yes(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            assert fake.requests == []
            assert event.target.provider == "fake-1"
            assert desk.router.pending_consents()[0].asked == event
            assert desk.router.consent(event.id, True) == "accepted"

    events = desk.ask(long(), hand_over_at=60, on_event=say_yes)
    assert replies(events) == [True]
    assert len(handoffs(events)) == 1
    assert text(events).endswith(REST.lstrip())


def test_what_the_local_model_writes_after_the_yes_does_not_leave(
    make_desk: MakeDesk, fake: Fake, engine: LocalEngine
) -> None:
    """It finished its sentence first, and that went along unseen."""
    off = (*CALM.switched_off, "repetition")
    policy = msgspec.structs.replace(CALM, switched_off=off)
    settings = msgspec.structs.replace(ASKING, grace_tokens=1_024, grace_s=600)
    desk = make_desk(fake, fallback="ask", settings=settings, policy=policy)
    fake.script(Act(rest=REST))
    endless = looping(engine, max_tokens=800, ignore_eos=True)
    events: list[StreamEvent] = []
    for event in desk.start(endless, RouteOptions(mode="finish_sentence"))[1]:
        events.append(event)
        if len(text(events)) >= 60:
            desk.reading = OUT_OF_MEMORY
        if isinstance(event, ConsentAsked):
            assert desk.router.consent(event.id, True) == "accepted"
    (handoff,) = handoffs(events)
    (reply,) = (event for event in events if isinstance(event, ConsentAnswered))
    assert handoff.reason == "memory"
    said = text(events[: events.index(reply)])
    assert text(events[: events.index(handoff)]) == said
    sent = fake.requests[0].json()["messages"]
    (assistant,) = (message["content"] for message in sent if message["role"] == "assistant")
    assert said.startswith(assistant)


@pytest.mark.parametrize(("keep_chars", "may_grow"), [(40, True), (0, False)])
def test_a_preview_says_that_it_may_grow_while_good_text_is_held_back(
    make_desk: MakeDesk, fake: Fake, keep_chars: int, may_grow: bool
) -> None:
    """The good part of a loop was held in doubt, and went along behind the preview's back."""
    policy = PolicySettings(**DOUBTS, switched_off=CALM.switched_off[1:])
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=policy)
    fake.script(Act(text="A tale of the cloud's own."))
    reason = Reason(code="repetition", keep_chars=keep_chars)
    answer_id, stream = desk.start(ask(max_tokens=60, ignore_eos=True))
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        context = desk.router._context(answer_id)
        assert context is not None
        if len(events) == 1 and context.stream is not None:
            context.stream.trigger(reason)
        if isinstance(event, ConsentAsked):
            assert desk.router.pending_consents()[0].plan().may_grow == may_grow
            desk.router.consent(event.id, True)
    (handoff,) = handoffs(events)
    assert handoff.reason == "repetition"
    assert len(text(events[: events.index(handoff)])) <= keep_chars


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
    assert replies(events) == [None]
    assert goes_on_locally(events)
    assert fake.record.accepted == 0
    asked = next(e for e in events if isinstance(e, ConsentAsked))
    assert desk.router.consent(asked.id, True) == "too_late"


def test_nobody_is_asked_for_what_the_budget_cannot_pay(make_desk: MakeDesk, fake: Fake) -> None:
    spent = BudgetSettings(total=BudgetLimits(tokens_per_day=10))
    desk = make_desk(fake, fallback="ask", settings=ASKING, budget=spent)
    events = desk.ask(long(), hand_over_at=60)
    assert not asked(events)
    assert end(events).reason == "length"
    assert fake.record.accepted == 0


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
