"""What the cloud sees of private texts, and what the client sees of their stand-ins."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.cloud_fallback.events import ConsentAsked, StreamEvent
from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import Desk, end, handoffs, long, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

MAIL = "ruby.fox@example.org"
CARD = "4111 1111 1111 1111"


def sent_to(fake: Fake) -> str:
    return "".join(request.body for request in fake.requests)


def test_private_texts_of_earlier_turns_stay_here_and_come_back_in_the_answer(
    desk: Desk, fake: Fake
) -> None:
    fake.script(Act(rest=" She wrote to [EMAIL_1] and paid with [CARD_1]. The end.", chunk_chars=3))
    messages = (
        Message(role="user", content=f"My mail is {MAIL}, my card {CARD}."),
        Message(role="assistant", content="I will remember that."),
        Message(role="user", content="Tell me a story about a fox named Ruby."),
    )
    events = desk.ask(
        GenerationRequest(messages=messages, max_tokens=600, ignore_eos=True), hand_over_at=60
    )
    (handoff,) = handoffs(events)
    assert text(events).endswith(f"She wrote to {MAIL} and paid with {CARD}. The end.")
    assert handoff.redactions == 2
    for private in (MAIL, CARD, "4111", "ruby.fox"):
        assert private not in sent_to(fake)


@pytest.mark.parametrize("manner", ["anchor", "restart", "whitespace"])
def test_a_private_text_in_the_unfinished_answer_changes_the_anchor_and_not_the_join(
    make_desk: MakeDesk, fake: Fake, manner: str
) -> None:
    """The assistant's turn that is continued ends in the middle of an address."""
    desk = make_desk(fake, fallback="auto")
    begun = "Of course. You can always reach the fox at her own address, which is " + MAIL
    messages = (
        Message(role="user", content=f"What is the fox's address? It was {MAIL}."),
        Message(role="assistant", content=begun),
    )
    fake.script(Act(rest=" and by post. The end.", manner=manner))  # type: ignore[arg-type]  # a Literal
    request = GenerationRequest(
        messages=messages, max_tokens=600, ignore_eos=True, continue_final_message=True
    )
    events = desk.ask(request, hand_over_at=1)
    assert handoffs(events)
    assert MAIL not in sent_to(fake)
    assert text(events).endswith("and by post. The end.")
    assert "[EMAIL" not in text(events)


def test_the_user_learns_how_much_is_redacted(make_desk: MakeDesk, fake: Fake) -> None:
    desk = make_desk(fake, fallback="ask")
    events = desk.ask(
        long(text=f"Tell me a story about {MAIL} and {CARD}."),
        hand_over_at=40,
        on_event=lambda e: isinstance(e, ConsentAsked) and desk.router.consent(e.id, False),
    )
    (asked,) = [event for event in events if isinstance(event, ConsentAsked)]
    assert asked.redactions == 2
    assert fake.record.accepted == 0


def test_a_chat_that_the_assistant_opens_asks_anew(make_desk: MakeDesk, fake: Fake) -> None:
    """The greeting passed for an earlier answer, so that the yes of another chat held."""
    desk = make_desk(fake, fallback="ask")
    greeting = Message(role="assistant", content="Hello! What shall I tell?")
    request = GenerationRequest(messages=(greeting, *ask().messages), max_tokens=60)
    in_cloud = RouteOptions(routing=Routing(prefer="cloud"))
    replies = [True, False]

    def reply(event: StreamEvent) -> None:
        if isinstance(event, ConsentAsked):
            desk.router.consent(event.id, replies.pop(0), scope="chat")

    for _ in range(2):
        desk.ask(request, in_cloud, on_event=reply)
    assert replies == []
    assert len(fake.requests) == 1


def test_an_answer_may_be_kept_here_before_its_first_event(desk: Desk, fake: Fake) -> None:
    """The endpoint had said yes, and the answer left."""
    in_cloud = RouteOptions(routing=Routing(prefer="cloud"))
    answer_id, stream = desk.start(ask(max_tokens=12), in_cloud)
    desk.router.keep_local(answer_id)
    assert not handoffs(list(stream))
    assert fake.record.accepted == 0


def test_text_that_cannot_be_searched_stays_local(
    desk: Desk, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RedactionFailed("for the test")

    monkeypatch.setattr(Redactor, "redact", fails)
    events = desk.ask(long(), hand_over_at=40)
    assert not handoffs(events)
    assert end(events).reason == "length"
    assert fake.record.accepted == 0
