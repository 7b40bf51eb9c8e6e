"""A provider that does not write is named with its address and the cause; nobody asks in vain."""

from __future__ import annotations

from contextlib import closing
from typing import get_args

import msgspec
import pytest

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.events import ConsentAsked, ProviderFailed, StreamEvent
from spillover.cloud_fallback.policy.reason import IN_WORDS, ReasonCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.runtime.events import Delta
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    CALM,
    IN_CLOUD,
    OUT_OF_MEMORY,
    Desk,
    end,
    handoffs,
    long,
    provider,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act

KEYLESS = ProviderSettings(
    name="far", dialect="openai", model="m", base_url="https://api.example/v1", key_variable="GONE"
)


def failures(events: list[StreamEvent]) -> list[ProviderFailed]:
    return [event for event in events if isinstance(event, ProviderFailed)]


def test_every_reason_has_words() -> None:
    codes = [code for kind in get_args(ReasonCode) for code in (get_args(kind) or (kind,))]
    assert set(IN_WORDS) == set(codes)


def test_a_provider_out_of_reach_is_shown_before_the_local_answer(desk: Desk, fake: Fake) -> None:
    """The client used to learn only that the local model wrote."""
    fake.refuse_connections()
    events = desk.ask(ask(max_tokens=12), IN_CLOUD)
    fake.accept_connections()
    (failed,) = failures(events)
    assert (failed.provider.provider, failed.provider.model) == ("fake-1", "cloud-model")
    assert failed.address == f"{fake.url}/v1"
    assert failed.code == "network"
    assert "refused" in failed.message
    assert events.index(failed) < next(i for i, e in enumerate(events) if isinstance(e, Delta))
    assert text(events)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (Act(refusal="auth"), "auth"),
        (Act(refusal="billing"), "billing"),
        (Act(refusal="content_policy"), "content_policy"),
        (Act(refusal="server_error"), "overloaded"),
        (Act(text="Once upon a time there was", cut="clean", cut_after_chunks=2), "truncated"),
    ],
)
def test_the_cause_is_named_and_the_key_is_not(desk: Desk, fake: Fake, act: Act, code: str) -> None:
    fake.script(act)
    events = desk.ask(ask(max_tokens=12), IN_CLOUD)
    (failed,) = failures(events)
    assert failed.code == code
    assert failed.message
    assert "canary" not in repr(events)


def test_what_a_retry_mends_is_not_shown(desk: Desk, fake: Fake) -> None:
    fake.script(Act(refusal="no_prefill"), Act(text="Done."))
    assert failures(desk.ask(ask(), IN_CLOUD)) == []


@pytest.mark.parametrize("fallback", ["auto", "ask"])
def test_a_template_that_cannot_be_read_costs_nobody_the_answer(
    make_desk: MakeDesk, fake: Fake, fallback: str
) -> None:
    fields = {"dialect": "tgi", "base_url": fake.url, "chat_template": "{{ broken"}
    desk = make_desk(providers=[provider(fake, "old", **fields)], fallback=fallback)
    events = desk.ask(long(max_tokens=60), hand_over_at=20)
    assert end(events).reason == "length"
    assert all("chat template of old" in failed.message for failed in failures(events))
    assert len(failures(events)) == (fallback == "auto")


def test_the_next_provider_writes_after_the_failure_of_the_first(
    make_desk: MakeDesk, fake: Fake
) -> None:
    fake.script(Act(text="Done."))
    desk = make_desk(providers=[KEYLESS, provider(fake)])
    events = desk.ask(ask(), IN_CLOUD)
    assert [failed.provider.provider for failed in failures(events)] == ["far"]
    assert "GONE" in failures(events)[0].message
    assert [handoff.target.provider for handoff in handoffs(events)] == ["fake"]


def test_a_users_no_is_not_a_failure(make_desk: MakeDesk, fake: Fake) -> None:
    desk = make_desk(fake, fallback="ask")

    def refuse(event: StreamEvent) -> None:
        for question in desk.router.pending_consents():
            desk.router.consent(question.asked.id, False)

    events = desk.ask(ask(max_tokens=12), IN_CLOUD, on_event=refuse)
    assert failures(events) == []
    assert end(events).reason == "length"


def test_an_answer_that_nobody_can_begin_is_refused_before_its_first_event(
    make_desk: MakeDesk,
) -> None:
    """A client then gets the status of the failure, and no stream."""
    _, stream = make_desk(providers=[KEYLESS]).start(
        ask(), RouteOptions(routing=Routing(only="cloud_only"))
    )
    with pytest.raises(AuthFailed, match="far: there is no key"):
        next(stream)


# --- asking for a handoff that nobody can take over ---------------------------------------------


def refused(desk: Desk, before: int = 20) -> str | None:
    """Why a running local answer cannot be handed over; it has to go on undisturbed."""
    answer_id, stream = desk.start(long(max_tokens=40))
    events, why = [], None
    for event in stream:
        events.append(event)
        if why is None and len(text(events)) > before:
            assert not desk.router.hand_over(answer_id)
            why = desk.router.handoff_problem(answer_id)
            assert why is not None
    assert handoffs(events) == []
    assert end(events).usage.completion_tokens == 40
    return why


def test_without_a_key_nobody_takes_over(make_desk: MakeDesk) -> None:
    why = refused(make_desk(providers=[KEYLESS]))
    assert why is not None
    assert "far: there is no key: set GONE" in why


def test_a_provider_that_is_out_of_use_says_for_how_long(desk: Desk, fake: Fake) -> None:
    fake.script(Act(refusal="auth"))
    desk.ask(ask(max_tokens=4), IN_CLOUD)
    why = refused(desk)
    assert why == "fake-1: it is not asked for another 600 s, because it refused the key"


def test_a_spent_budget_says_so(make_desk: MakeDesk, fake: Fake) -> None:
    desk = make_desk(fake, budget=BudgetSettings(total=BudgetLimits(tokens_per_day=0)))
    why = refused(desk)
    assert why is not None
    assert "the budget of all providers per day is 0 tokens" in why


def test_a_client_that_cannot_be_asked_is_named_as_the_cause(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """The cause used to be given as local_only, or several choices."""
    desk = make_desk(fake, fallback="ask")
    options = RouteOptions(can_answer=False)
    stream = desk.router.stream(long(max_tokens=40), options)
    next(stream)
    assert not desk.router.hand_over(options.id)
    why = desk.router.handoff_problem(options.id)
    assert why is not None
    assert "its client cannot show a question (see fallback_unasked)" in why
    stream.close()


def test_a_wish_that_the_owner_has_switched_off_is_refused(make_desk: MakeDesk, fake: Fake) -> None:
    """It used to be accepted, and nothing happened."""
    policy = PolicySettings(switched_off=(*CALM.switched_off, "user"))
    why = refused(make_desk(fake, policy=policy))
    assert why is not None
    assert "switched off" in why
    assert fake.requests == []


def test_who_is_asked_already_is_told_so(make_desk: MakeDesk, fake: Fake) -> None:
    """Nothing happened here, too."""
    desk = make_desk(fake, fallback="ask", policy=msgspec.structs.replace(CALM, sensor_dwell=1))
    desk.reading = OUT_OF_MEMORY
    answer_id, stream = desk.start(long(max_tokens=400))
    with closing(stream):
        question = next(event for event in stream if isinstance(event, ConsentAsked))
        assert question.reason == "memory"
        assert not desk.router.hand_over(answer_id)
        why = desk.router.handoff_problem(answer_id)
        assert why == "its user is being asked already whether it may be handed over"


def test_an_answer_that_is_kept_here_is_not_handed_over(desk: Desk) -> None:
    answer_id, stream = desk.start(long(max_tokens=40))
    next(stream)
    desk.router.keep_local(answer_id)
    assert not desk.router.hand_over(answer_id)
    assert desk.router.handoff_problem(answer_id) == "its user keeps it on this device"
    stream.close()
