"""A machine on the LAN needs neither a flag nor a key, and gets the best seam; the owner's rules
hold for it as for any other provider."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import IN_CLOUD, handoffs, long, seams, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Page

VLLM = Page(body=json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}))


def next_door(fake: Fake) -> ProviderSettings:
    """All that a user has to write."""
    return ProviderSettings(
        name="next-door", dialect="openai", model="m", base_url=f"{fake.url}/v1"
    )


def test_it_continues_a_prefilled_answer_by_default(make_desk: MakeDesk, fake: Fake) -> None:
    fake.show({"/v1/models": VLLM})
    fake.script(Act(rest=" and they lived next door. The end.", usage=None))
    events = make_desk(providers=[next_door(fake)]).ask(long(), hand_over_at=60)
    assert [handoff.target.provider for handoff in handoffs(events)] == ["next-door"]
    (request,) = fake.requests
    body: Any = json.loads(request.body)
    assert body["continue_final_message"] is True
    assert body["messages"][-1]["role"] == "assistant"
    assert "authorization" not in request.headers
    assert [seam.kind for seam in seams(events)] == ["prefill"]


def test_the_first_answer_makes_the_inquiry_not_the_handoff(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """With fallback auto a connection is opened, and the server asked, when the answer begins."""
    fake.show({"/v1/models": VLLM})
    desk = make_desk(providers=[next_door(fake)], settings=RouteSettings(warms_connections=True))
    desk.ask(ask(max_tokens=8))
    fake.wait_for(accepted=1)
    assert fake.requests == []


@pytest.mark.parametrize("fallback", ["never", "ask"])
def test_nothing_is_asked_before_the_user_agrees(
    make_desk: MakeDesk, fake: Fake, fallback: str
) -> None:
    fake.show({"/v1/models": VLLM})
    desk = make_desk(providers=[next_door(fake)], fallback=fallback)
    answer_id, stream = desk.start(long(max_tokens=60))
    events: list[StreamEvent] = []
    asked = False
    for event in stream:
        events.append(event)
        if not asked and len(text(events)) > 20:
            asked = True
            desk.router.hand_over(answer_id)
        for question in desk.router.pending_consents():
            assert fake.record.accepted == 0
            desk.router.consent(question.asked.id, False)
    assert fake.record.accepted == 0


def test_after_a_yes_it_is_asked_once_for_the_question(make_desk: MakeDesk, fake: Fake) -> None:
    fake.show({"/v1/models": VLLM})
    fake.script(Act(text="A cloud."))
    desk = make_desk(providers=[next_door(fake)], fallback="ask")
    n_questions = 0

    def agree(_event: StreamEvent) -> None:
        nonlocal n_questions
        for question in desk.router.pending_consents():
            n_questions += 1
            desk.router.consent(question.asked.id, True)

    events = desk.ask(ask(), IN_CLOUD, on_event=agree)
    assert text(events).endswith("A cloud.")
    assert n_questions == 1
    assert fake.record.pages == ["/v1/models"]


def test_private_texts_are_removed_for_it_too(make_desk: MakeDesk, fake: Fake) -> None:
    fake.script(Act(text="Sent."))
    make_desk(providers=[next_door(fake)]).ask(ask("Write to jane.doe@example.org."), IN_CLOUD)
    assert "jane.doe" not in fake.requests[0].body


def test_it_costs_nothing(make_desk: MakeDesk, fake: Fake) -> None:
    fake.script(Act(text="Done."))
    budget = BudgetSettings(total=BudgetLimits(usd_per_day=0.0))
    events = make_desk(providers=[next_door(fake)], budget=budget).ask(ask(), IN_CLOUD)
    assert text(events) == "Done."


def test_a_handoff_right_after_the_beginning_waits_for_the_inquiry(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """The plan used to be made while the inquiry of the answer's beginning was under way."""
    fake.show({"/v1/models": VLLM})
    fake.script(Act(rest=" The end."))
    settings = RouteSettings(warms_connections=True)
    desk = make_desk(providers=[next_door(fake)], settings=settings)
    events = desk.ask(long(), hand_over_at=1)
    assert json.loads(fake.requests[0].body)["continue_final_message"] is True
    assert text(events).endswith(" The end.")
