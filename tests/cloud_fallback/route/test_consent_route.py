"""Nothing leaves the device without a yes, and a yes can be given, refused, or come too late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, StreamEvent
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.cloud_fallback.privacy.standing import FILE_NAME, StandingConsents
from spillover.cloud_fallback.route.allowed import Fallback, Routing
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Delta, EngineEvent
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    CALM,
    OUT_OF_MEMORY,
    Desk,
    end,
    handoffs,
    joined,
    long,
    seams,
    text,
)
from tests.cloud_fallback.route.test_hard_cases import looping
from tests.cloud_fallback.route.test_held_at_an_error import DOUBTS
from tests.fakes.fake import Fake
from tests.fakes.script import Act

REST = " Then a cloud came by. The end."
ASKING = RouteSettings(consent_timeout_s=30, warms_connections=False)
REPLACING = RouteOptions(may_replace=True)


def asked(events: list[StreamEvent]) -> list[ConsentAsked]:
    return [event for event in events if isinstance(event, ConsentAsked)]


def replies(events: list[StreamEvent]) -> list[bool | None]:
    return [event.granted for event in events if isinstance(event, ConsentAnswered)]


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


# --- while the question is open ----------------------------------------------------------------


class Replier:
    """Replies to the question, once so many characters have come after it."""

    def __init__(self, desk: Desk, granted: bool, *, after: int = 0, **scope: Any) -> None:
        self._desk, self._granted, self._after, self._scope = desk, granted, after, scope
        self._events: list[StreamEvent] = []
        self._said: int | None = None
        self.question = ""

    def __call__(self, event: StreamEvent) -> None:
        self._events.append(event)
        if isinstance(event, ConsentAsked):
            self.question, self._said = event.id, len(text(self._events))
        if self._said is not None and len(text(self._events)) >= self._said + self._after:
            self._said = None
            assert self._desk.router.consent(self.question, self._granted, **self._scope)


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


CLOUDS = msgspec.structs.replace(CALM, rules=(PromptRule(name="foxes", words=("fox",)),))
FOX = "Tell me a story about a fox."


def end_of_local(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set when the local model has written the next answer to its end."""
    local, ended = desk.router.local.engine, threading.Event()
    stream = local.stream

    def noted(*given: Any) -> Iterator[EngineEvent]:
        yield from stream(*given)
        ended.set()

    monkeypatch.setattr(local, "stream", noted)
    return ended


def test_text_that_was_held_back_takes_nothing_from_max_tokens(
    make_desk: MakeDesk, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's answer was cut, or it was not asked any more."""
    fake.script(Act(text="A tale of the cloud's own."))
    desk = make_desk(fake, fallback="ask", settings=ASKING, policy=CLOUDS)
    ended = end_of_local(desk, monkeypatch)
    _id, stream = desk.start(ask(FOX, max_tokens=20, ignore_eos=True))
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if isinstance(event, ConsentAsked):
            assert ended.wait(60)
            desk.router.consent(event.id, True)
    assert text(events) == "A tale of the cloud's own."
    assert end(events).reason == "stop"


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


# --- what a reply holds for --------------------------------------------------------------------


def turn(question: str, *said: str) -> GenerationRequest:
    """A conversation of the user's turns, with an answer after each but the last."""
    messages = [Message(role="user", content=question)]
    for content in said:
        messages += [
            Message(role="assistant", content="Once."),
            Message(role="user", content=content),
        ]
    return msgspec.structs.replace(ask(max_tokens=20), messages=tuple(messages))


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


# --- clients that cannot be asked ---------------------------------------------------------------


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
