"""What has to be made before a model can be loaded: others do not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from spillover.models.catalogue import find
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.errors import (
    EngineBusy,
    EngineClosed,
    ModelError,
    NoRoomForModel,
    SpilloverError,
)
from spillover.runtime.events import EngineEvent, Loading
from spillover.runtime.hosting.residence import Preparation
from tests.answers import ask, end_of, text_of
from tests.runtime.hosting.place import GGUF, ONE_MODEL, ONNX, Place, in_thread


def needing(make: Callable[[Cancellation], None], patience_s: float = 600.0) -> Preparation:
    """What a model needs until *make* was called with success."""
    made = []

    def prepare(cancellation: Cancellation) -> None:
        make(cancellation)
        made.append(make)

    return Preparation(
        what="its egg", is_needed=lambda: not made, make=prepare, patience_s=patience_s
    )


class Work:
    """Of a preparation, which lasts until it is released or cancelled."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self._released = Cancellation()
        self.release = self._released.cancel

    def do(self, cancellation: Cancellation) -> None:
        self.begun.release()
        with cancellation.subscribed(self._released.cancel):
            self._released.wait(120)
        if cancellation.cancelled:
            self._released = Cancellation()
            self.release = self._released.cancel
            raise ModelError("it was cancelled")


def test_other_models_are_loaded_while_one_is_prepared(make: Callable[..., Place]) -> None:
    """They waited for it, for minutes."""
    place, work = make(), Work()
    answers: list[EngineEvent] = []
    slow, other = place.model(GGUF, preparation=needing(work.do)), place.model(ONNX)
    thread = in_thread(lambda: answers.extend(slow.stream(ask(max_tokens=4))))
    assert work.begun.acquire(timeout=60)
    assert text_of(other.stream(ask(max_tokens=4)))
    assert slow.state().state == "loading"
    work.release()
    thread.join(60)
    assert end_of(answers).reason == "length"
    assert place.loads == [ONNX, GGUF]


def test_room_is_made_before_a_model_is_prepared(make: Callable[..., Place]) -> None:
    """The system ended the conversion, for which nobody had left."""
    place, work, begun = make(budget_bytes=ONE_MODEL), Work(), threading.Event()
    first, slow = place.model(GGUF), place.model(ONNX, preparation=needing(work.do))
    huge = place.model(
        "huge",
        find(GGUF).path,
        needed_bytes=lambda gpu: DeviceBytes(host=2**50),
        preparation=needing(lambda cancellation: begun.set()),
    )
    first.wait_ready()
    with pytest.raises(NoRoomForModel):
        huge.wait_ready()
    assert not begun.is_set(), "it was not prepared in vain"
    assert first.is_loaded
    with slow.loading(lambda: None):
        assert work.begun.acquire(timeout=60)
        assert not first.is_loaded


def test_who_waits_for_a_preparation_is_refused_in_time_or_leaves_and_it_goes_on(
    make: Callable[..., Place],
) -> None:
    """Nobody was, and load_timeout_s did not count."""
    place, work = make(), Work()
    model = place.model(GGUF, preparation=needing(work.do, patience_s=0.5))
    errors: list[SpilloverError | None] = []
    leaves = Cancellation()
    stream = model.stream(ask(), leaves)
    assert next(stream) == Loading(model=GGUF)
    assert work.begun.acquire(timeout=60)
    leaves.cancel()
    assert end_of(list(stream)).reason == "cancelled"
    with pytest.raises(EngineBusy, match=r"not loaded after 0\.5 s: its egg is still being"):
        list(model.stream(ask()))
    settled = threading.Event()
    with model.loading(settled.set) as use:
        assert settled.wait(60)
        errors.append(use.error)
    assert isinstance(errors[0], EngineBusy)
    assert model.state().state == "loading"
    model.preload()
    with model.loading(lambda: None, is_patient=True) as use:  # as when the server starts
        with pytest.raises(EngineBusy):
            list(model.stream(ask()))
        work.release()
        assert model.settled(use).wait_ready().name == GGUF
    assert text_of(model.stream(ask(max_tokens=4)))
    assert place.loads == [GGUF]


def test_who_waits_for_a_preparation_is_refused_in_time_while_others_wait_for_room(
    make: Callable[..., Place],
) -> None:
    """load_timeout_s did not count as long as another model had to wait for answers to end."""
    place, work, refused = make(budget_bytes=ONE_MODEL), Work(), threading.Event()
    slow = place.model("slow", find(GGUF).path, preparation=needing(work.do, patience_s=0.5))
    first, second = place.model(GGUF), place.model(ONNX)
    slow.preload()
    assert work.begun.acquire(timeout=60)
    with first.loading(lambda: None), second.loading(lambda: None):
        place.wait_until(lambda: first.state().state == "unloading")
        with slow.loading(refused.set) as use:
            assert refused.wait(30)
            assert isinstance(use.error, EngineBusy)
            assert first.state().state == "unloading"


def test_who_waits_for_a_preparation_is_refused_in_time_while_another_model_is_loaded(
    make: Callable[..., Place],
) -> None:
    """load_timeout_s was only looked at when that load had ended."""
    place, work, refused = make(), Work(), threading.Event()
    slow = place.model(GGUF, preparation=needing(work.do, patience_s=0.1))
    other = place.model(ONNX)
    slow.preload()
    assert work.begun.acquire(timeout=60)
    place.gate.clear()
    with other.loading(lambda: None), slow.loading(refused.set) as use:
        assert refused.wait(30)
        assert isinstance(use.error, EngineBusy)
        assert other.state().state == "loading"


def test_a_preparation_that_nobody_waits_for_any_more_loads_nothing(
    make: Callable[..., Place],
) -> None:
    place, work = make(), Work()
    model = place.model(GGUF, preparation=needing(work.do))
    with model.loading(lambda: None):
        assert work.begun.acquire(timeout=60)
    work.release()
    place.wait_until(lambda: model.state().state == "unloaded")
    assert place.loads == []
    assert text_of(model.stream(ask(max_tokens=4)))


def test_a_preparation_that_fails_is_an_error_for_its_own_model(make: Callable[..., Place]) -> None:
    place = make()

    def fail(cancellation: Cancellation) -> None:
        raise ModelError("it has no egg")

    model = place.model(GGUF, preparation=needing(fail))
    for _ in range(2):  # the next request tries again
        with pytest.raises(ModelError, match="it has no egg"):
            model.wait_ready()
        assert model.state().state == "failed"


def test_an_unload_is_forgotten_when_the_preparation_fails(make: Callable[..., Place]) -> None:
    """The next load was undone as soon as its answer had ended."""
    place, begun, gate = make(), threading.Event(), threading.Event()
    failures = [ModelError("it has no egg")]

    def fail_once(cancellation: Cancellation) -> None:
        begun.set()
        assert gate.wait(60)
        if failures:
            raise failures.pop()

    model = place.model(GGUF, preparation=needing(fail_once))
    with model.loading(lambda: None) as use:
        assert begun.wait(60)
        model.unload()
        gate.set()
        place.wait_until(lambda: use.is_settled)
    model.wait_ready()
    assert model.state().state == "loaded"


def test_models_are_prepared_one_after_another_and_for_the_background_last(
    make: Callable[..., Place],
) -> None:
    place, works = make(), {name: Work() for name in "abc"}
    models = {
        name: place.model(name, find(GGUF).path, preparation=needing(work.do))
        for name, work in works.items()
    }
    quiet = in_thread(lambda: list(models["a"].stream(ask(max_tokens=2, priority="background"))))
    assert works["a"].begun.acquire(timeout=60)
    with models["b"].loading(lambda: None), models["c"].loading(lambda: None):
        assert works["b"].begun.acquire(timeout=60), "what nobody watches made way"
        place.wait_until(lambda: [models[name].state().n_ahead for name in "bca"] == [0, 1, 2])
        works["b"].release()
        assert works["c"].begun.acquire(timeout=60)
        works["c"].release()
        assert works["a"].begun.acquire(timeout=60)
        works["a"].release()
        quiet.join(60)
    assert place.loads == ["b", "c", "a"]


def test_a_host_that_closes_ends_what_a_model_needs_first(make: Callable[..., Place]) -> None:
    place, began = make(), threading.Event()

    def prepare(cancellation: Cancellation) -> None:
        began.set()
        cancellation.wait(60)
        assert cancellation.cancelled
        raise ModelError("it was cancelled")

    model, errors = place.model(GGUF, preparation=needing(prepare)), []

    def wait() -> None:
        try:
            model.wait_ready()
        except EngineClosed as error:
            errors.append(error)

    thread = in_thread(wait)
    assert began.wait(60)
    place.host.close()
    thread.join(60)
    assert len(errors) == 1
    assert place.loads == []
