"""What a provider that gave no answer may bill is booked, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.runtime.cancellation import Cancellation
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import Desk, end, provider, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

CLOUD_FIRST = RouteOptions(routing=Routing(prefer="cloud"))
CLOUD_ONLY = RouteOptions(routing=Routing(only="cloud_only"))
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


def test_a_request_that_was_taken_after_a_refusal_is_paid(desk: Desk, fake: Fake) -> None:
    """The refusal of a field, which the next request left out, counted for that one, too."""
    told = '{"error":{"code":"unsupported_parameter","param":"seed"}}'
    fake.script(Act(status=400, body=told), Act(raw=(": nothing yet\n\n",)))
    events = desk.ask(ask(max_tokens=20), CLOUD_FIRST)
    cloud = [leg for leg in end(events).usage.legs if leg.writer.origin == "cloud"]
    assert len(cloud) == len(fake.requests) - 1 > 0
    assert booked(desk) == sum(leg.prompt_tokens + leg.completion_tokens for leg in cloud)


def test_a_text_of_another_script_is_counted_while_it_comes(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """Four of its characters passed for a token, and the answer for a quarter of what it cost."""
    limit = 5_000
    desk = make_desk(fake, budget=BudgetSettings(total=BudgetLimits(tokens_per_day=limit)))
    fake.script(Act(text="狐狸在森林里走。" * 1_000, chunk_chars=100, usage=None))
    events = desk.ask(ask(max_tokens=None), CLOUD_ONLY)
    assert end(events).reason == "interrupted"
    assert limit * 0.8 < len(text(events)) < limit * 1.2
    assert booked(desk) < limit * 1.1


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"server": "openai", "model": "gpt-5-mini"}, 5_000),
        ({"server": "openai", "model": "gpt-4.1-mini"}, None),
        ({"dialect": "gemini", "model": "gemini-2.5-flash"}, 5_000),
    ],
)
def test_reasoning_that_nobody_sees_has_the_budgets_limit(
    make_desk: MakeDesk, fake: Fake, fields: dict[str, Any], most: int | None
) -> None:
    """It could not be ended in time, and was far more than the limit at the answer's end."""
    base_url = fake.url if "dialect" in fields else f"{fake.url}/v1"
    limits = BudgetSettings(total=BudgetLimits(tokens_per_day=5_000))
    desk = make_desk(providers=[provider(fake, base_url=base_url, **fields)], budget=limits)
    desk.ask(ask(max_tokens=None), CLOUD_ONLY)
    sent = fake.requests[0].json()
    told = sent.get(
        "max_completion_tokens", sent.get("generationConfig", {}).get("maxOutputTokens")
    )
    assert (told is None) == (most is None)
    assert told is None or 4_000 < told <= most


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
