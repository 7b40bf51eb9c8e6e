"""What a provider that gave no answer may bill is booked, and nothing else."""

from __future__ import annotations

import threading

import pytest

from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.runtime.cancellation import Cancellation
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import Desk, end, provider
from tests.fakes.fake import Fake
from tests.fakes.script import Act

CLOUD_FIRST = RouteOptions(routing=Routing(prefer="cloud"))
LIMITED = BudgetSettings(total=BudgetLimits(tokens_per_day=100_000))


@pytest.fixture
def desk(make_desk: MakeDesk, fake: Fake) -> Desk:
    return make_desk(fake, budget=LIMITED)


def booked(desk: Desk) -> int:
    """Tokens that are spent or reserved."""
    (allowance,) = desk.resources.budget.allowances()
    return int(allowance.spent)


@pytest.mark.parametrize(
    "act",
    [
        Act(raw=(": nothing yet\n\n",)),
        Act(raw=(": nothing yet\n\n",), cut_after_bytes=5, cut="reset"),
        Act(error_after_chunks=0, noise=False),
        Act(before_response="reset"),
    ],
    ids=["200 and an end", "200 and a reset", "200 and an error", "no response"],
)
def test_a_request_that_was_taken_is_paid_though_no_word_came(
    make_desk: MakeDesk, fake: Fake, act: Act
) -> None:
    # On a connection that it was asked on before, a reset would mean that the request never came.
    desk = make_desk(providers=[provider(fake, server="other")], budget=LIMITED)
    fake.script(act)
    events = desk.ask(ask(max_tokens=20), CLOUD_FIRST)
    cloud = [leg for leg in end(events).usage.legs if leg.writer.origin == "cloud"]
    assert len(cloud) == len(fake.requests) > 0
    assert all(leg.prompt_tokens > 10 and leg.estimated for leg in cloud)
    assert booked(desk) == sum(leg.prompt_tokens + leg.completion_tokens for leg in cloud)


@pytest.mark.parametrize(
    "act",
    [
        Act(refusal="overloaded"),
        Act(refusal="rate_limited", retry_form="seconds", retry_after_s=60),
        Act(refusal="auth"),
        Act(refusal="bad_request"),
        Act(redirect_to="http://127.0.0.1:1/"),
        Act(status=200, headers={"content-type": "text/html"}, body="<html>log in</html>"),
    ],
    ids=repr,
)
def test_a_request_that_was_refused_costs_nothing(desk: Desk, fake: Fake, act: Act) -> None:
    fake.script(act)
    events = desk.ask(ask(max_tokens=20), CLOUD_FIRST)
    assert not any(leg.writer.origin == "cloud" for leg in end(events).usage.legs)
    assert booked(desk) == 0


def test_a_provider_that_was_not_reached_costs_nothing(make_desk: MakeDesk, fake: Fake) -> None:
    nobody = provider(fake, base_url="http://127.0.0.1:1/v1")
    desk = make_desk(providers=[nobody], budget=LIMITED)
    desk.ask(ask(max_tokens=20), CLOUD_FIRST)
    assert booked(desk) == 0


def test_who_leaves_while_the_provider_has_the_request_pays_the_prompt(
    desk: Desk, fake: Fake
) -> None:
    fake.script(Act(hold_before_response=True))
    cancellation = Cancellation()

    def leave() -> None:
        fake.wait_for(holding=1)
        cancellation.cancel()

    threading.Thread(target=leave, daemon=True).start()
    _, stream = desk.start(ask(max_tokens=20), CLOUD_FIRST, cancellation)
    assert end(list(stream)).reason == "cancelled"
    assert booked(desk) > 10
