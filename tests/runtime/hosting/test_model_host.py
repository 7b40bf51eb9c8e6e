"""Models are loaded for those who wait, one after another, and unloaded."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spillover.models.catalogue import find
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.errors import EngineBusy, ModelError, NoRoomForModel, NotLoaded
from spillover.runtime.events import EngineEvent, Loading, Queued
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.hosting.memory import held_bytes
from spillover.runtime.hosting.residence import Residence
from tests.answers import ask, end_of, text_of
from tests.runtime.hosting.place import GGUF, ONE_MODEL, ONNX, Place, begun, in_thread


def test_with_memory_for_one_model_answers_are_drained_and_loads_come_in_turn(
    make: Callable[..., Place],
) -> None:
    place = make(budget_bytes=ONE_MODEL)
    first, second = place.model(GGUF), place.model(ONNX)
    answers: dict[str, list[EngineEvent]] = {}

    def answer(label: str, model: HostedModel) -> None:
        answers[label] = list(model.stream(ask(max_tokens=4)))

    running = begun(first)
    threads = [in_thread(lambda: answer("second", second))]
    place.wait_until(lambda: first.state().state == "unloading")
    threads.append(in_thread(lambda: answer("late", first)))
    place.wait_until(lambda: first.state().n_waiting == 1)
    assert first.state().n_ahead == 1
    assert place.loads == [GGUF]
    rest = list(running)  # it goes on to its end, although its model has to make room
    for thread in threads:
        thread.join(60)
    assert end_of(rest).usage.completion_tokens == 40
    assert place.loads == [GGUF, ONNX, GGUF]
    assert {label: end_of(events).reason for label, events in answers.items()} == {
        "second": "length",
        "late": "length",
    }
    assert all(isinstance(events[0], Loading) for events in answers.values())
    assert second.state().state == "unloaded"
    second.unload()  # of what is not loaded, it does nothing
    assert text_of(second.stream(ask(max_tokens=4)))


def test_who_asks_a_model_that_need_not_make_room_any_more_gets_it_at_once(
    make: Callable[..., Place],
) -> None:
    place = make(budget_bytes=ONE_MODEL)
    first, second = place.model(GGUF), place.model(ONNX)
    leaves = Cancellation()
    late: list[EngineEvent] = []
    with closing(begun(first)):
        waiting = in_thread(lambda: list(second.stream(ask(), leaves)))
        place.wait_until(lambda: first.state().state == "unloading")
        thread = in_thread(lambda: late.extend(first.stream(ask(max_tokens=4))))
        place.wait_until(lambda: first.state().n_waiting == 1)
        leaves.cancel()
        thread.join(60)
        waiting.join(60)
        assert first.state().state == "loaded"
    assert end_of(late).usage.completion_tokens == 4
    assert place.loads == [GGUF]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A host with memory for both."""
    place = Place(tmp_path_factory.mktemp("both"))
    yield place
    place.host.close()


@pytest.fixture(scope="module")
def loaded(both: Place) -> tuple[HostedModel, HostedModel]:
    models = both.model(GGUF), both.model(ONNX)
    for model in models:
        model.preload()
    for model in models:
        model.wait_ready()
    return models


def test_a_load_tells_how_much_has_been_read(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()
    model = place.model(GGUF)
    shares: list[float] = []
    note = place.host._note_progress

    def see(residence: Residence, share: float) -> None:
        note(residence, share)
        progress = model.state().progress
        assert progress is not None
        shares.append(progress)

    monkeypatch.setattr(place.host, "_note_progress", see)
    model.wait_ready()
    assert shares[-1] == 1.0
    assert shares == sorted(set(shares))
    assert model.state().progress is None


def test_models_that_fit_stay_side_by_side(
    both: Place, loaded: tuple[HostedModel, HostedModel]
) -> None:
    for model in (*loaded, *loaded):
        events = list(model.stream(ask(max_tokens=4)))
        assert isinstance(events[0], Queued)
    assert both.loads == [GGUF, ONNX]
    assert [model.state().state for model in loaded] == ["loaded", "loaded"]
    card = loaded[0].card
    assert (
        loaded[0].state().held_bytes == held_bytes(card).total > card.size_bytes + card.kv_bytes > 0
    )


def test_the_death_of_one_worker_is_nothing_to_the_others(
    both: Place, loaded: tuple[HostedModel, HostedModel]
) -> None:
    first, second = loaded
    died = threading.Event()
    with closing(begun(first, 300)) as one, closing(begun(second)) as other:
        engines = [each.engine for each in both.host._residences if each.engine is not None]
        pids = [engine.worker_pid for engine in engines]
        first.watch_deaths(died.set)  # it is loaded already
        assert pids[0] is not None
        os.kill(pids[0], signal.SIGKILL)
        assert died.wait(60)
        assert end_of(list(other)).usage.completion_tokens == 40
        assert engines[1].worker_pid == pids[1]
        assert engines[1].health().n_restarts == 0
        assert end_of(list(one)).usage.completion_tokens == 300  # in the next worker
    assert both.loads == [GGUF, ONNX]  # its supervisor has started it, as for a single model


def test_a_wait_for_a_load_is_cancelled_and_the_load_goes_on(make: Callable[..., Place]) -> None:
    place = make()
    place.gate.clear()
    model = place.model(GGUF, keep_alive_s=0.0)
    cancellation = Cancellation()
    events = model.stream(ask(n=2), cancellation)
    assert next(events) == Loading(model=GGUF)
    assert place.started.wait(60)
    cancellation.cancel()
    assert [event.reason for event in events] == ["cancelled"] * 2  # type: ignore[union-attr]
    assert model.health().state == "loading"
    place.gate.set()
    # Nobody needs it any more, so that it leaves as soon as it has come.
    place.wait_until(lambda: model.state().state == "unloaded" and bool(model.state().card))
    with pytest.raises(NotLoaded):
        model.at_once.tokenize("Once", add_special=False, parse_special=False)
    assert model.at_once.card.n_ctx == 1024


def test_how_long_a_request_keeps_a_model_counts_for_one_load(make: Callable[..., Place]) -> None:
    """It counted for ever, whatever the owner had set."""
    place = make()
    model = place.model(GGUF, keep_alive_s=600.0)
    for n in range(1, 3):  # the second time it is loaded already, and stays for the answer
        events = list(model.stream(ask(max_tokens=2, keep_alive_s=0.0)))
        assert end_of(events).reason == "length"
        place.wait_until(lambda: model.state().state == "unloaded" and bool(model.state().card))
        assert place.loads == [GGUF] * n
        assert end_of(list(model.stream(ask(max_tokens=2)))).reason == "length"
        assert 0 < (model.state().expires_in_s or 0) <= 600
    assert end_of(list(model.stream(ask(max_tokens=2, keep_alive_s=math.inf)))).reason == "length"
    assert model.state().expires_in_s is None
    model.keep_alive(60.0)
    assert 0 < (model.state().expires_in_s or 0) <= 60
    model.unload()
    place.wait_until(lambda: model.state().state == "unloaded")
    model.keep_alive(0.0)  # of what is not loaded, it does nothing
    model.wait_ready()
    assert model.state().state == "loaded"


def test_a_model_is_unloaded_when_its_answers_have_ended(make: Callable[..., Place]) -> None:
    place = make()
    model = place.model(GGUF)
    with closing(begun(model)) as events:
        model.unload()
        assert model.state().state == "unloading"
        assert end_of(list(events)).usage.completion_tokens == 40
    place.wait_until(lambda: model.state().state == "unloaded")


def test_a_load_tells_of_settings_without_an_effect(
    both: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Only those of the first model were shown."""
    both.model("quiet", find(ONNX).path, draft_model=find(GGUF).path).wait_ready()
    assert "quiet: draft_model is for GGUF models: it has no effect here" in caplog.messages


def test_a_failed_load_is_an_error_for_those_who_wait_and_for_nobody_else(
    both: Place, loaded: tuple[HostedModel, HostedModel], tmp_path: Path
) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(64))
    broken = both.model("broken", file, needed_bytes=lambda gpu: DeviceBytes())
    gone = both.model("gone", tmp_path / "gone.gguf")
    with closing(begun(loaded[0])) as running:
        for model in (broken, gone):
            with pytest.raises(ModelError):
                list(model.stream(ask()))
            assert model.state().state == "failed"
            assert model.state().error
            assert model.health().state == "unloaded"  # the next request tries again
        assert end_of(list(running)).usage.completion_tokens == 40
    with pytest.raises(ModelError):
        broken.wait_ready()


def test_a_model_that_does_not_fit_is_refused_and_nobody_is_unloaded_for_it(
    both: Place, loaded: tuple[HostedModel, HostedModel]
) -> None:
    huge = both.model(
        "huge", needed_bytes=lambda gpu: DeviceBytes(host=2**50), path=find(GGUF).path
    )
    with pytest.raises(NoRoomForModel, match="is not loaded: it needs") as refused:
        list(huge.stream(ask()))
    assert 2**49 < refused.value.missing_bytes < 2**50
    assert [model.state().state for model in loaded] == ["loaded", "loaded"]


def test_only_so_many_wait_for_a_load(make: Callable[..., Place]) -> None:
    place = make()
    place.gate.clear()
    model = place.model(GGUF, max_waiting=2)
    waiting = [model.stream(ask()) for _ in range(2)]
    assert [next(events) for events in waiting] == [Loading(model=GGUF)] * 2
    with pytest.raises(EngineBusy, match="too many requests wait"):
        next(model.stream(ask()))
    for events in waiting:
        events.close()
    assert next(model.stream(ask())) == Loading(model=GGUF)


def test_a_host_that_closes_ends_answers_and_waits(make: Callable[..., Place]) -> None:
    place = make(budget_bytes=ONE_MODEL)
    first, second = place.model(GGUF), place.model(ONNX)
    errors: list[str] = []

    def wait() -> None:
        try:
            second.wait_ready()
        except Exception as error:
            errors.append(str(error))

    running = begun(first, 900)
    thread = in_thread(wait)
    place.wait_until(lambda: first.state().state == "unloading")
    place.host.close()
    thread.join(60)
    assert errors == [f"{ONNX} was closed"]
    with pytest.raises(Exception, match="closed"):
        list(running)


def test_who_waits_hears_of_the_end_even_beside_a_preload(make: Callable[..., Place]) -> None:
    place = make()
    model = place.model(GGUF)
    place.gate.clear()
    model.preload()
    assert place.started.wait(60)
    uses = [place.host.use(model._residence) for _ in range(2)]
    place.gate.set()
    place.host.close()
    assert all(use.is_settled for use in uses)


def test_an_unload_that_was_overtaken_is_forgotten(make: Callable[..., Place]) -> None:
    place = make()
    loading, model = place.model("first", find(GGUF).path), place.model(GGUF)
    place.gate.clear()
    with loading.loading(lambda: None):
        assert place.started.wait(60)
        with model.loading(lambda: None):
            model.unload()
    place.gate.set()
    place.wait_until(lambda: model.state().state == "unloaded")
    model.wait_ready()
    assert model.state().state == "loaded"
