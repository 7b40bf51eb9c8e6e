"""Where a handoff goes wrong in other systems: poison, flapping, limits, the gap, the storm."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import date
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.events import Replace, StreamEvent
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.availability.breaker import Permit
from spillover.cloud_fallback.route.availability.circuit import N_PROBES
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.cloud_fallback.spending.limits import Amount, BudgetLimits, BudgetSettings
from spillover.cloud_fallback.spending.prices import Prices
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import Delta, EngineEvent, Finished, Queued
from spillover.runtime.local_engine import LocalEngine
from tests.answers import REST, ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    CALM,
    MUCH_MEMORY,
    OUT_OF_MEMORY,
    Desk,
    end,
    handoffs,
    joined,
    long,
    looping,
    provider,
    text,
)
from tests.cloud_fallback.spending.amounts import spent_today
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens

# --- poison ----------------------------------------------------------------------------------


@pytest.mark.parametrize("may_replace", [False, True])
def test_a_loop_is_rolled_back_and_never_fed_to_the_cloud(
    make_desk: MakeDesk, fake: Fake, engine: LocalEngine, may_replace: bool
) -> None:
    desk = make_desk(fake)
    fake.script(Act(text="The fox went home, and all was well. The end."))
    events = desk.ask(looping(engine, max_tokens=400), RouteOptions(may_replace=may_replace))
    (handoff,) = handoffs(events)
    assert handoff.reason == "repetition"
    (request,) = fake.requests
    assert request.body.count(" fox fox fox") == 0
    assert text(events).endswith("all was well. The end.")
    if may_replace:
        assert text(events).count("fox fox fox") == 0
        assert any(isinstance(event, Replace) for event in events)
    else:
        assert not any(isinstance(event, Replace) for event in events)
    assert end(events).reason == "stop"


def test_a_stop_string_does_not_begin_in_text_that_was_taken_back(
    make_desk: MakeDesk, fake: Fake, engine: LocalEngine
) -> None:
    """The answer used to end at once."""
    desk = make_desk(fake)
    fake.script(Act(text="The fox went home, and all was well. The end."))
    request = looping(engine, max_tokens=400, stop=("foxThe", "fox The"))
    events = desk.ask(request, RouteOptions(may_replace=True))
    assert [handoff.reason for handoff in handoffs(events)] == ["repetition"]
    assert end(events).stop is None
    assert text(events).endswith("all was well. The end.")


def test_without_the_cloud_a_loop_continues_as_before(
    make_desk: MakeDesk, fake: Fake, engine: LocalEngine
) -> None:
    desk = make_desk(fake)
    request = looping(engine, max_tokens=100)
    alone = desk.ask(request, RouteOptions(routing=Routing(only="local_only")))
    fake.script(Act(refusal="auth"))
    events = desk.ask(request)
    assert text(events) == text(alone)
    assert end(events).reason == "length"


def test_a_provider_without_an_end_is_stopped_at_the_answers_length(desk: Desk, fake: Fake) -> None:
    """It was asked for 20 tokens, and goes on and on."""
    fake.script(Act(chunks=("more words here ",) * 2_000))
    events = desk.ask(ask(max_tokens=20), RouteOptions(routing=Routing(prefer="cloud")))
    assert end(events).reason == "length"
    assert 20 <= len(text(events).split()) <= 40


@pytest.mark.parametrize("max_tokens", [None, 20])
@pytest.mark.parametrize("kind", ["text", "reasoning"])
def test_a_provider_without_an_end_is_stopped_where_no_length_was_set(
    make_desk: MakeDesk, fake: Fake, kind: str, max_tokens: int | None
) -> None:
    """Only the time and the bytes of the whole answer used to be limited, and what it thinks
    unseen by no max_tokens either."""
    desk = make_desk(fake, settings=RouteSettings(warms_connections=False, max_cloud_tokens=500))
    endless = ("more words here ",) * 4_000
    thought = "" if kind == "text" else "more words here " * 130
    fake.script(Act(reasoning=thought, chunks=endless))
    events = desk.ask(ask(max_tokens=max_tokens), RouteOptions(routing=Routing(prefer="cloud")))
    assert end(events).reason == "length"
    assert end(events).usage.completion_tokens < 600
    assert (text(events) == "") == (kind == "reasoning")


def test_a_client_that_waits_for_a_provider_learns_so_at_once(desk: Desk, fake: Fake) -> None:
    """Whoever began the answer would else hold a thread of the endpoint until then."""
    held = Act(text="A tale.", hold_before_response=True)
    fake.script(*[held] * N_PROBES, Act(text="A tale."))
    streams = [
        desk.start(ask(max_tokens=20), RouteOptions(routing=Routing(prefer="cloud")))[1]
        for _ in range(N_PROBES + 1)
    ]
    with ThreadPoolExecutor(len(streams)) as pool:
        first = list(pool.map(next, streams))
        assert [type(event) for event in first].count(Queued) == 1
        rests = [pool.submit(list, stream) for stream in streams]
        fake.wait_for(holding=N_PROBES)
        fake.release()
        for begun, rest in zip(first, rests, strict=True):
            assert text([begun, *rest.result(30)]) == "A tale."


# --- flapping --------------------------------------------------------------------------------


def test_memory_that_swings_around_its_threshold_moves_an_answer_once(
    desk: Desk, fake: Fake
) -> None:
    fake.script(Act(rest=REST))
    readings = itertools.cycle([OUT_OF_MEMORY, MUCH_MEMORY])

    def swing(_event: StreamEvent) -> None:
        desk.reading = next(readings)

    for _ in range(10):
        events = desk.ask(ask(max_tokens=150), on_event=swing)
        assert len(handoffs(events)) <= 1
        assert sum(isinstance(event, Finished) for event in events) == 1


def test_an_answer_that_ends_by_itself_is_not_handed_over(desk: Desk, fake: Fake) -> None:
    """The end and the wish for a handoff come in the same moment."""
    alone = desk.ask(ask(), RouteOptions(routing=Routing(only="local_only")))
    n_deltas = sum(isinstance(event, Delta) for event in alone)
    answer_id, stream = desk.start(ask())
    events: list[StreamEvent] = []
    with closing(stream):
        for event in stream:
            events.append(event)
            if sum(isinstance(event, Delta) for event in events) == n_deltas:
                desk.router.hand_over(answer_id)
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert end(events).reason == "stop"


# --- limits ----------------------------------------------------------------------------------


def test_max_tokens_counts_both_writers(desk: Desk, fake: Fake) -> None:
    fake.script(Act(rest=" word" * 1000))
    events = desk.ask(long(max_tokens=300), hand_over_at=60)
    assert end(events).reason == "length"
    words = text(events).count(" word")
    assert 0 < words <= 300
    assert fake.requests[0].json()["max_tokens"] < 380


def test_nothing_is_asked_for_when_no_tokens_are_left(desk: Desk, fake: Fake) -> None:
    alone = desk.ask(ask(max_tokens=20), RouteOptions(routing=Routing(only="local_only")))
    events = desk.ask(ask(max_tokens=20), hand_over_at=len(text(alone)))
    assert end(events).reason == "length"
    assert fake.requests == []


def test_a_stop_string_across_the_seam_ends_the_answer(
    desk: Desk, fake: Fake, engine: LocalEngine
) -> None:
    """Its beginning is the local model's, held back when it was cancelled; its end the cloud's."""
    fake.script(Act(rest=" and then it was night."))
    request = looping(engine, max_tokens=200, stop=(" fox and then",))
    events = desk.ask(request, hand_over_at=24)
    assert len(handoffs(events)) == 1
    assert (end(events).reason, end(events).stop) == ("stop", " fox and then")
    assert set(text(events).split()) == {"fox"}


def test_thinking_that_uses_up_the_tokens_is_not_taken_for_an_answer(
    desk: Desk, fake: Fake
) -> None:
    fake.script(
        Act(
            manner="nothing",
            reasoning="Let me think about foxes. " * 20,
            finish="length",
            usage=Tokens(completion=100, reasoning=100),
        )
    )
    events = desk.ask(long(), hand_over_at=60)
    assert [h.target.origin for h in handoffs(events)] == ["cloud", "local"]
    assert end(events).reason in ("stop", "length")


def test_a_spent_budget_keeps_the_answer_local(make_desk: MakeDesk, fake: Fake) -> None:
    prices = Prices(input_usd=1000.0, output_usd=1000.0, priced_on=date(2026, 11, 1))
    desk = make_desk(
        providers=[provider(fake, prices=prices)],
        budget=BudgetSettings(total=BudgetLimits(usd_per_day=0.01)),
    )
    events = desk.ask(long(), hand_over_at=60)
    assert not handoffs(events)
    assert fake.record.accepted == 0
    assert end(events).reason in ("stop", "length")


def test_a_machine_next_door_costs_nothing_where_money_is_limited(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """It used to be left out for want of prices."""
    desk = make_desk(
        providers=[provider(fake, is_local_network=True)],
        budget=BudgetSettings(total=BudgetLimits(usd_per_day=0.01)),
    )
    fake.script(Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    assert [h.target.origin for h in handoffs(events)] == ["cloud"]
    assert end(events).usage.legs[1].cost_usd == 0


def test_a_budget_that_runs_out_on_the_way_ends_the_cloud_leg(
    make_desk: MakeDesk, fake: Fake
) -> None:
    desk = make_desk(fake, budget=BudgetSettings(total=BudgetLimits(tokens_per_day=400)))
    fake.script(Act(rest=" and on" * 2000))
    events = desk.ask(long(max_tokens=100_000), hand_over_at=60)
    assert end(events).reason in ("stop", "length")
    assert text(events).count(" and on") < 1500
    spent = sum(
        leg.completion_tokens for leg in end(events).usage.legs if leg.writer.origin == "cloud"
    )
    assert spent <= 420


def test_what_a_leg_costs_is_said_and_recorded(make_desk: MakeDesk, fake: Fake) -> None:
    prices = Prices(input_usd=2.0, output_usd=10.0, priced_on=date(2026, 11, 1))
    desk = make_desk(providers=[provider(fake, prices=prices)])
    fake.script(Act(rest=REST, usage=Tokens(prompt=100, completion=20)))
    events = desk.ask(long(), hand_over_at=60)
    cloud = end(events).usage.legs[1]
    assert cloud.cost_usd == pytest.approx((100 * 2 + 20 * 10) / 1e6)
    (record,) = desk.router.recent(10)
    assert record.handoff == handoffs(events)[0]
    assert record.legs[1].cost_usd == cloud.cost_usd


# --- the gap ---------------------------------------------------------------------------------


def test_a_client_that_leaves_in_the_gap_ends_the_request(make_desk: MakeDesk, fake: Fake) -> None:
    desk = make_desk(fake, budget=BudgetSettings(total=BudgetLimits(tokens_per_day=100_000)))
    fake.script(Act(rest=REST, hold_before_response=True))
    cancellation = Cancellation()
    answer_id, stream = desk.start(long(), cancellation=cancellation)

    def leave() -> None:
        fake.wait_for(holding=1)
        cancellation.cancel()

    threading.Thread(target=leave, daemon=True).start()
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if len(text(events)) > 60 and not handoffs(events):
            desk.router.hand_over(answer_id)
    assert end(events).reason == "cancelled"
    fake.wait_for(open=0)
    # The provider has the prompt and may want to be paid for it; nothing else is booked.
    cloud = end(events).usage.legs[1]
    assert cloud.completion_tokens == 0
    assert spent_today(desk.resources.budget).tokens == cloud.prompt_tokens
    (allowance,) = desk.resources.budget.allowances()
    assert allowance.reserved == 0


def test_a_client_that_leaves_in_the_gap_does_not_count_as_an_answer(
    desk: Desk, fake: Fake
) -> None:
    """It used to let everybody ahead, and to close the circuit that it was to probe."""
    fake.script(Act(rest=REST, hold_before_response=True))
    cancellation = Cancellation()
    answer_id, stream = desk.start(long(), RouteOptions(), cancellation)

    def leave() -> None:
        fake.wait_for(holding=1)
        cancellation.cancel()

    threading.Thread(target=leave, daemon=True).start()
    for event in stream:
        if isinstance(event, Delta):
            desk.router.hand_over(answer_id)
    breakers = desk.resources.breakers
    with ExitStack() as probes:
        for _ in range(N_PROBES):
            permit = breakers.acquire("fake-1")
            assert isinstance(permit, Permit)
            probes.enter_context(permit)
        assert breakers.refusal("fake-1") is not None


def test_a_client_that_leaves_before_the_cloud_is_asked_asks_nothing(
    desk: Desk, fake: Fake
) -> None:
    cancellation = Cancellation()
    answer_id, stream = desk.start(long(), cancellation=cancellation)
    events: list[StreamEvent] = []
    for event in stream:
        events.append(event)
        if len(text(events)) > 60:
            cancellation.cancel()
            desk.router.hand_over(answer_id)
    assert end(events).reason == "cancelled"
    assert not handoffs(events)
    assert fake.record.accepted == 0
    assert spent_today(desk.resources.budget) == Amount()


# --- the storm -------------------------------------------------------------------------------


def test_twenty_answers_survive_the_worker_and_a_limited_provider_together(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], engine: LocalEngine
) -> None:
    """The worker is killed with kill -9 while memory runs out for all of them; the first provider
    is rate-limited for a minute. Each answer comes to one end, and no herd runs into the wall."""
    limited, patient = make_fake(), make_fake()
    limited.script(Act(refusal="rate_limited", retry_form="seconds", retry_after_s=60))
    patient.script(Act(rest=REST, delay_s=0.01))
    desk = make_desk(
        limited,
        patient,
        settings=RouteSettings(crash_patience_s=0.2, warms_connections=False),
        policy=msgspec.structs.replace(CALM, queue_length=1000, queue_s=1000.0),
    )
    all_run = threading.Barrier(21)

    def follow(_: int) -> list[StreamEvent]:
        _id, stream = desk.start(ask(max_tokens=400, ignore_eos=True))
        events: list[StreamEvent] = []
        waited = False
        for event in stream:
            events.append(event)
            if not waited:
                waited = True
                all_run.wait(60)
        return events

    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(follow, range(20))
        all_run.wait(60)
        pid = engine.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        desk.reading = OUT_OF_MEMORY
        done = list(answers)
    for events in done:
        assert sum(isinstance(event, Finished) for event in events) == 1
        assert end(events).reason in ("stop", "length")
        if there := [h for h in handoffs(events) if h.target.provider == "fake-2"]:
            said = text(events[: events.index(there[0])])
            assert text(events).startswith(said)
            assert text(events) == joined(said, REST) or there[0].keep_chars < 8
    assert any(handoffs(events) for events in done)
    # A few find out that the provider is limited; the others never ask it.
    assert 1 <= len(limited.requests) <= N_PROBES
    assert {block.provider for block in desk.resources.breakers.blocked()} == {"fake-1"}


def test_text_held_in_doubt_is_sent_when_no_tokens_are_left(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """An answer that max_tokens ended while all of it was in doubt used to come out empty."""
    doubtful = PolicySettings(p_wrong_hold=0.0, p_wrong_enter=0.0, p_wrong_forget=0.0)
    desk = make_desk(fake, policy=doubtful)
    request = ask(max_tokens=14, reuse_prefix=False)
    alone = desk.ask(request, RouteOptions(routing=Routing(only="local_only")))
    events = desk.ask(request)
    assert text(events) == text(alone) != ""
    assert end(events).reason == "length"
    assert not handoffs(events)
    assert fake.requests == []


@pytest.mark.parametrize("can_replace", [False, True])
def test_a_word_or_two_are_not_shown_before_it_is_clear_who_writes(
    desk: Desk, engine: LocalEngine, fake: Fake, monkeypatch: Any, can_replace: bool
) -> None:
    """They used to stand before the whole answer of the next writer."""
    fake.script(Act(text="Quite another answer."))
    stream = engine.stream

    def hands_over_at_once(*arguments: Any) -> Iterator[EngineEvent]:
        n_left = 4  # characters: several tokens may come before the stream ends
        with closing(stream(*arguments)) as events:
            for event in events:
                if isinstance(event, Delta):
                    event = msgspec.structs.replace(event, text=event.text[:n_left])
                    n_left -= len(event.text)
                    assert desk.router.hand_over("answer-1")
                yield event

    monkeypatch.setattr(engine, "stream", hands_over_at_once)
    events = desk.ask(long(), RouteOptions(may_replace=can_replace))
    assert text(events) == "Quite another answer."
    (handoff,) = handoffs(events)
    assert can_replace or handoff.keep_chars == 0
    shown_first = [event for event in events[: events.index(handoff)] if isinstance(event, Delta)]
    assert can_replace or not shown_first


def test_a_word_of_a_provider_that_breaks_off_is_not_shown(
    make_desk: MakeDesk, make_fake: Callable[[], Fake]
) -> None:
    first, second = make_fake(), make_fake()
    desk = make_desk(first, second)
    first.script(Act(text="Hello there.", chunk_chars=5, cut="reset", cut_after_chunks=1))
    second.script(Act(text="Quite another answer."))
    events = desk.ask(ask(), RouteOptions(routing=Routing(prefer="cloud")))
    assert text(events) == "Quite another answer."
