"""Requests of the background cost nobody a model, nor a place in the queue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from spillover.models.catalogue import find
from spillover.runtime.errors import EngineBusy, NoRoomForModel
from spillover.runtime.events import Delta, EngineEvent, Loading, Queued
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.request import Priority
from tests.answers import ask, end_of, text_of
from tests.runtime.hosting.place import GGUF, ONE_MODEL, ONNX, Place, begun, in_thread


def test_the_background_waits_for_a_load_apart_from_others(make: Callable[..., Place]) -> None:
    place = make()
    place.gate.clear()
    model = place.model(GGUF, max_waiting=1, max_background=1)
    quiet = ask(priority="background")
    waiting = [model.stream(quiet), model.stream(ask())]
    assert [next(events) for events in waiting] == [Loading(model=GGUF)] * 2
    for request, kind in ((quiet, "requests of the background"), (ask(), "requests")):
        with pytest.raises(EngineBusy, match=f"too many {kind} wait"):
            next(model.stream(request))
    for events in waiting:
        events.close()


def test_an_answer_of_the_background_ends_when_its_model_has_to_make_room(
    make: Callable[..., Place],
) -> None:
    """Who waited for another model waited for its end."""
    place = make(budget_bytes=ONE_MODEL)
    first, second = place.model(GGUF), place.model(ONNX)
    answer: list[EngineEvent] = []
    quiet = first.stream(ask(max_tokens=900, ignore_eos=True, priority="background"))
    with closing(begun(first, 900)) as running:
        assert isinstance(next(quiet), Queued)
        thread = in_thread(lambda: answer.extend(second.stream(ask(max_tokens=4))))
        place.wait_until(lambda: first.state().state == "unloading")
        next(event for event in running if isinstance(event, Delta))  # it goes on to its end
    with pytest.raises(EngineBusy, match="makes room"):
        list(quiet)
    thread.join(60)
    assert end_of(answer).reason == "length"


def test_a_load_for_the_background_is_given_up_when_others_need_another_model(
    make: Callable[..., Place],
) -> None:
    place = make()
    quiet, wanted = (place.model(name, find(GGUF).path) for name in "ab")
    answers: dict[str, list[EngineEvent]] = {}

    def answer(model: HostedModel, priority: Priority) -> None:
        answers[model.name] = list(model.stream(ask(max_tokens=4, priority=priority)))

    place.gate.clear()
    threads = [in_thread(lambda: answer(quiet, "background"))]
    assert place.started.wait(60)
    threads.append(in_thread(lambda: answer(wanted, "normal")))
    place.wait_until(lambda: wanted.state().n_waiting == 1)
    place.gate.set()
    for thread in threads:
        thread.join(60)
    assert place.loads == ["a", "b", "a"]
    assert [end_of(answers[name]).reason for name in "ab"] == ["length", "length"]


def test_a_request_of_the_background_costs_nobody_a_model(make: Callable[..., Place]) -> None:
    place = make(budget_bytes=ONE_MODEL)
    first, second = place.model(GGUF), place.model(ONNX)
    quiet = ask(max_tokens=4, priority="background")
    first.wait_ready()
    with pytest.raises(NoRoomForModel):
        list(second.stream(quiet))
    assert (first.state().state, second.state().state) == ("loaded", "unloaded")
    first.unload()
    place.wait_until(lambda: not first.holds_memory)
    assert end_of(list(second.stream(quiet))).reason == "length"
    assert text_of(first.stream(ask(max_tokens=4)))
    assert place.loads == [GGUF, ONNX, GGUF]


def test_models_for_the_background_are_loaded_last(make: Callable[..., Place]) -> None:
    place = make()
    loading, quiet, wanted = (place.model(name, find(GGUF).path) for name in "abc")
    place.gate.clear()
    with ExitStack() as stack:
        stack.enter_context(loading.loading(lambda: None))
        assert place.started.wait(60)
        host, residence = place.host, quiet._residence
        stack.callback(host.release, host.use(residence, is_background=True))
        stack.enter_context(wanted.loading(lambda: None))
        assert (wanted.state().n_ahead, quiet.state().n_ahead) == (1, 2)
        stack.enter_context(quiet.loading(lambda: None))
        assert (wanted.state().n_ahead, quiet.state().n_ahead) == (1, 2)
        place.gate.set()
        place.wait_until(lambda: len(place.loads) == 3)
    assert place.loads == ["a", "c", "b"]
