"""Twenty answers at once: their budget is one, and no question stays open."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest

from spillover.cloud_fallback.events import ConsentAnswered, StreamEvent
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.cloud_fallback.spending.prices import Prices
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import Desk, end, handoffs, provider, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

N = 20
CLOUD_FIRST = RouteOptions(routing=Routing(prefer="cloud"))
PRICES = Prices(input_usd=1.0, output_usd=100.0, priced_on=date(2026, 11, 1))


def all_at_once(desk: Desk, max_tokens: int | None) -> list[list[StreamEvent]]:
    start = threading.Barrier(N)

    def follow(number: int) -> list[StreamEvent]:
        start.wait(30)
        return desk.ask(ask(f"Tell me story {number}.", max_tokens=max_tokens), CLOUD_FIRST)

    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(follow, range(N)))


@pytest.mark.parametrize("max_tokens", [200, None])
@pytest.mark.parametrize("usage", ["auto", None])
def test_their_budget_holds(
    make_desk: MakeDesk, fake: Fake, max_tokens: int | None, usage: str | None
) -> None:
    """Each alone would fit; all of them would cost several times as much."""
    limit_usd = 0.05
    desk = make_desk(
        providers=[provider(fake, prices=PRICES)],
        budget=BudgetSettings(total=BudgetLimits(usd_per_day=limit_usd)),
    )
    fake.script(Act(chunks=("word ",) * 200, usage=usage, delay_s=0.001))  # type: ignore[arg-type]  # a Literal
    answers = all_at_once(desk, max_tokens)
    (allowance,) = desk.resources.budget.allowances()
    spent = sum(
        leg.cost_usd or 0.0
        for events in answers
        for leg in end(events).usage.legs
        if leg.writer.origin == "cloud"
    )
    assert 0 < spent <= limit_usd * 1.05  # and the last event of each
    assert allowance.spent / 1e9 == pytest.approx(spent, abs=1e-6)
    assert all(text(events) for events in answers)
    assert all(end(events).reason in ("stop", "length") for events in answers)
    assert 0 < sum(len(handoffs(events)) > 0 for events in answers) < N


def test_an_answer_that_no_provider_continues_continues_locally(
    make_desk: MakeDesk, fake: Fake
) -> None:
    hasty = RouteSettings(consent_timeout_s=0.1, warms_connections=False)
    desk = make_desk(fake, fallback="ask", settings=hasty)
    for events in all_at_once(desk, 20):
        assert [e.granted for e in events if isinstance(e, ConsentAnswered)] == [None]
        assert text(events)
    assert desk.router.pending_consents() == []
    assert fake.record.accepted == 0
