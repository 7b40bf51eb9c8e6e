"""A reason that the owner has switched off moves no answer, wherever it comes from."""

from __future__ import annotations

import msgspec
import pytest

from spillover.cloud_fallback.errors import ProviderRefused
from spillover.cloud_fallback.policy.reason import ReasonCode
from spillover.runtime.errors import ContextOverflow, InvalidRequest
from spillover.runtime.request import GenerationRequest, JsonSchema, Message
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import CALM, Desk, end, handoffs, long, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

TOO_LONG = ask("Ruby the fox saw a bird. " * 400)
UNIQUE = JsonSchema(schema={"type": "array", "uniqueItems": True})


def desk_without(make_desk: MakeDesk, fake: Fake, code: ReasonCode) -> Desk:
    off = (*CALM.switched_off, code)
    return make_desk(fake, policy=msgspec.structs.replace(CALM, switched_off=off))


def test_then_a_prompt_that_is_too_long_is_an_error(make_desk: MakeDesk, fake: Fake) -> None:
    desk = desk_without(make_desk, fake, "context")
    with pytest.raises(ContextOverflow):
        desk.ask(TOO_LONG)
    assert fake.record.accepted == 0


def test_a_prompt_that_is_too_long_says_so_with_both_numbers(desk: Desk, fake: Fake) -> None:
    (handoff,) = handoffs(desk.ask(TOO_LONG))
    assert handoff.reason == "context"
    assert handoff.signals["n_prompt_tokens"] > handoff.signals["n_ctx"] == 1024


def test_a_format_that_only_a_provider_knows_is_sent_to_it(desk: Desk, fake: Fake) -> None:
    fake.script(Act(text='["Ruby", "Max"]'))
    events = desk.ask(ask(response_format=UNIQUE))
    assert [h.reason for h in handoffs(events)] == ["schema"]
    assert text(events) == '["Ruby", "Max"]'
    assert end(events).reason == "stop"


def test_an_unknown_format_is_an_error(desk: Desk, fake: Fake) -> None:
    fake.script(Act(refusal="bad_request"))
    with pytest.raises(ProviderRefused):
        desk.ask(ask(response_format=UNIQUE))


def test_then_a_format_that_only_a_provider_knows_is_an_error(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = desk_without(make_desk, fake, "schema")
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        desk.ask(ask(response_format=UNIQUE))
    assert fake.record.accepted == 0


def test_the_next_turn_begins_here_then(make_desk: MakeDesk, fake: Fake) -> None:
    desk = desk_without(make_desk, fake, "sticky")
    fake.script(Act(rest=" The end."))
    first = long()
    said = text(desk.ask(first, hand_over_at=40))
    turns = (
        *first.messages,
        Message(role="assistant", content=said),
        Message(role="user", content="And then?"),
    )
    assert not handoffs(desk.ask(GenerationRequest(messages=turns, max_tokens=20)))
    assert len(fake.requests) == 1
