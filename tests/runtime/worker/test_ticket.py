"""What the parent remembers of a request, on a fake clock."""

from __future__ import annotations

from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    Prefilling,
    Queued,
    ReasoningDelta,
    Timings,
    Usage,
)
from spillover.runtime.worker.supervision.ticket import Ticket
from tests.answers import ask


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def finished(choice: int = 0) -> Finished:
    usage = Usage(prompt_tokens=5, cached_tokens=0, completion_tokens=3)
    timings = Timings(queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0)
    return Finished(choice=choice, reason="stop", usage=usage, timings=timings)


def play(ticket: Ticket, clock: Clock, *steps: tuple[float, EngineEvent]) -> EngineEvent:
    """Record each event after so many seconds; the last one as the client sees it."""
    for seconds, event in steps:
        clock.now += seconds
        seen = ticket.record(event)
    return seen


def test_the_times_of_an_answer_that_survived_a_crash_count_from_its_start() -> None:
    clock = Clock()
    ticket = Ticket(1, ask(), 0, clock)
    play(
        ticket, clock,
        (1.0, Queued(position=0, n_prompt_tokens=5)),
        (2.0, Prefilling(n_read=0, n_cached=0, n_prompt_tokens=5)),
        (4.0, ReasoningDelta(text="hm", token_ids=(7,))),
        (1.0, Delta(text="a", token_ids=(8,))),
    )  # fmt: skip
    ticket.n_deaths += 1
    seen = play(
        ticket, clock,
        (8.0, Prefilling(n_read=0, n_cached=0, n_prompt_tokens=5)),
        (1.0, Delta(text="b", token_ids=(9,))),
        (0.5, finished()),
    )  # fmt: skip
    assert isinstance(seen, Finished)
    assert seen.timings == Timings(queue_ms=3000.0, prefill_ms=4000.0, decode_ms=10_500.0)
    assert seen.usage.reasoning_tokens == 1
    assert seen.usage.completion_tokens == 3


def test_without_a_crash_the_workers_times_stand() -> None:
    clock = Clock()
    ticket = Ticket(1, ask(), 0, clock)
    assert play(ticket, clock, (5.0, Delta(text="a", token_ids=(1,))), (1.0, finished())) == (
        finished()
    )


def test_a_cancelled_answer_without_a_worker_still_reports_its_usage() -> None:
    clock = Clock()
    ticket = Ticket(1, ask(n=2), 0, clock)
    play(
        ticket, clock,
        (1.0, Prefilling(n_read=0, n_cached=0, n_prompt_tokens=5)),
        (1.0, Delta(choice=1, text="a", token_ids=(1, 2))),
        (3.0, finished(choice=0)),
    )  # fmt: skip
    (end,) = ticket.cancellation_events()
    assert isinstance(end, Finished)
    assert (end.choice, end.reason, end.usage.completion_tokens) == (1, "cancelled", 2)
    assert end.timings.decode_ms == 3000.0
    assert not ticket.is_open
