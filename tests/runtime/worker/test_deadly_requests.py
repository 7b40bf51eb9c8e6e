"""A request that ends its worker is refused alone, and the engine recovers."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from spillover.runtime.errors import DeadlyRequest, WorkerDied
from spillover.runtime.events import Delta, Queued
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from spillover.runtime.worker.supervision import restarts, suspects
from spillover.runtime.worker.supervision.suspects import Suspects
from spillover.runtime.worker.supervision.ticket import Ticket
from tests.answers import ask, end_of, worker_of
from tests.measured import measured
from tests.waiting import wait_until


def run_to_death(engine: LocalEngine, request: GenerationRequest) -> None:
    """Kill the worker at each piece of text of *request*, as if it were the cause."""
    for event in engine.stream(request):
        if isinstance(event, Delta):
            os.kill(worker_of(engine), signal.SIGKILL)


def test_a_request_that_ends_its_worker_twice_is_refused_and_others_are_served(
    model_path: Path, tmp_path: Path
) -> None:
    """Two of them used to end the service for good."""
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1)
    ) as engine:
        engine.wait_ready(60)
        deadly = ask("Kill!", max_tokens=40, ignore_eos=True)
        with pytest.raises(DeadlyRequest):
            run_to_death(engine, deadly)
        n_restarts = engine.status().n_restarts
        assert n_restarts == 2
        with pytest.raises(DeadlyRequest, match="refused for 30 minutes"):
            next(
                engine.stream(
                    ask("Kill!", Sampling(temperature=0, seed=7), max_tokens=40, ignore_eos=True)
                )
            )
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"
        assert engine.status().n_restarts == n_restarts


def test_an_answer_beside_a_deadly_request_comes_to_its_end(
    model_path: Path, tmp_path: Path
) -> None:
    options = EngineOptions(cache_dir=measured(tmp_path), n_threads=1, max_restarts=20)
    with LocalEngine(model_path, options) as engine:
        engine.wait_ready(60)
        begun, ends = threading.Event(), []

        def read() -> None:
            events = []
            for event in engine.stream(ask(max_tokens=200, ignore_eos=True)):
                events.append(event)
                if isinstance(event, Queued):
                    begun.set()
            ends.append(end_of(events))

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        with pytest.raises(DeadlyRequest):
            run_to_death(engine, ask("Kill!", max_tokens=200, ignore_eos=True))
        reader.join(120)
        assert [end.usage.completion_tokens for end in ends] == [200]


def test_an_engine_that_pauses_after_too_many_deaths_recovers(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to refuse everything for ever."""
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 5.0)
    with LocalEngine(
        model_path, EngineOptions(cache_dir=measured(tmp_path), n_threads=1, max_restarts=0)
    ) as engine:
        engine.wait_ready(60)
        killed = worker_of(engine)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: engine.health().state == "failed")
        with pytest.raises(WorkerDied, match="SIGKILL too often") as refusal:
            next(engine.stream(ask()))
        assert 1 <= refusal.value.retry_after_s <= 5
        wait_until(lambda: engine.health().state == "ready")
        assert end_of(engine.stream(ask(max_tokens=3))).reason == "length"


# --- who is to blame ----------------------------------------------------------------------------


def tickets(*texts: str) -> list[Ticket]:
    return [Ticket(i, ask(text), seed=i) for i, text in enumerate(texts)]


def test_the_only_request_at_two_deaths_is_to_blame() -> None:
    trouble = Suspects()
    old, deadly, new = tickets("old", "deadly", "new")
    assert trouble.died([old, deadly]) == []
    trouble.clear(old)
    assert trouble.died([deadly, new]) == [deadly]
    with pytest.raises(DeadlyRequest):
        trouble.check(tickets("deadly")[0])
    trouble.check(new)


def test_a_long_answer_that_goes_on_after_each_death_is_not_to_blame() -> None:
    trouble = Suspects()
    (long,) = tickets("long")
    for _ in range(5):
        long.record(Delta(text="Once", token_ids=tuple(range(suspects.HARMLESS_TOKENS))))
        assert trouble.died([long]) == []
    assert trouble.died([long]) == [long]


def test_several_suspects_run_one_after_the_other() -> None:
    trouble = Suspects()
    good, deadly, new = tickets("good", "deadly", "new")
    for _ in range(2):
        assert trouble.died([good, deadly]) == []
    assert trouble.may_run(good)
    assert not trouble.may_run(deadly)
    assert trouble.may_run(new)
    assert trouble.is_acquitted(Delta(text="Once"))
    trouble.on_trial = None
    assert trouble.may_run(deadly)
    assert trouble.died([good, new, deadly]) == [deadly]
    assert trouble.on_trial is None


def test_the_same_request_at_the_same_time_is_counted_once() -> None:
    trouble = Suspects()
    one, other = tickets("deadly", "deadly")
    assert trouble.died([one, other]) == []
    assert trouble.died([one, other]) == [one, other]


def test_what_was_remembered_is_forgotten_after_a_while() -> None:
    now = 0.0
    trouble = Suspects(lambda: now)
    (deadly,) = tickets("deadly")
    trouble.died([deadly])
    assert trouble.died([deadly]) == [deadly]
    now = suspects.REMEMBERED_S
    trouble.check(deadly)
    assert trouble.died([deadly]) == []


def test_only_so_many_requests_are_remembered() -> None:
    trouble = Suspects()
    for i in range(suspects.MOST_REMEMBERED + 10):
        (deadly,) = tickets(f"deadly {i}")
        trouble.died([deadly])
        trouble.died([deadly])
    trouble.check(tickets("deadly 0")[0])
    assert len(trouble._deaths) == len(trouble._refused) == suspects.MOST_REMEMBERED
