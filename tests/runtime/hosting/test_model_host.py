"""Two real models in their workers, with memory for one of them or for both."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from spillover.models.catalogue import find
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.engine import EngineStatus, ModelCard
from spillover.runtime.errors import (
    EngineBusy,
    EngineClosed,
    ModelError,
    NoRoomForModel,
    NotLoaded,
    SpilloverError,
)
from spillover.runtime.events import Delta, EngineEvent, Loading, Queued
from spillover.runtime.fit.device_fit import COMPUTE_BYTES
from spillover.runtime.fit.model_shape import GpuMemory
from spillover.runtime.hosting import room
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.hosting.memory import held_bytes, needed_bytes
from spillover.runtime.hosting.model_host import ModelHost
from spillover.runtime.hosting.residence import ModelSpec, Preparation, Residence
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import Priority
from spillover.runtime.worker.protocol import MemoryShort
from tests.answers import ask, end_of, text_of
from tests.edge_server.places import wait_until
from tests.gguf_edit import with_values

GGUF, ONNX = "storyteller", "storyteller-onnx"
GIB = 2**30
ONE_MODEL = 300 * 2**20
"""A budget that holds one of the two, and not both."""


class Place:
    """A host of both models, and the order in which they were loaded."""

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder = folder
        self.host = ModelHost(budget_bytes=budget_bytes)
        self.loads: list[str] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        """Models wait for it before they are loaded."""
        self.gate.set()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until it is true; the host tells of each change."""
        with self.host._changed:
            assert self.host._changed.wait_for(lambda: bool(condition()), 120)

    def model(
        self,
        name: str,
        path: Path | None = None,
        draft_model: Path | None = None,
        kind: type[LocalEngine] = LocalEngine,
        **spec: object,
    ) -> HostedModel:
        options = EngineOptions(
            n_threads=1, n_parallel=2, cache_dir=self.folder, draft_model=draft_model
        )
        file = path or find(name).path

        def start(most_bytes: int) -> LocalEngine:
            self.loads.append(name)
            self.started.set()
            assert self.gate.wait(60)
            return kind(file, options, name=name, most_bytes=most_bytes)

        fields = {"needed_bytes": partial(needed_bytes, file, options), **spec}
        return HostedModel(self.host, self.host.add(ModelSpec(name=name, start=start, **fields)))  # type: ignore[arg-type]  # by name


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    places: list[Place] = []

    def make(**options: int) -> Place:
        places.append(Place(tmp_path, **options))
        return places[-1]

    yield make
    for place in places:
        place.gate.set()
        place.host.close()


def begun(model: HostedModel, max_tokens: int = 40) -> Generator[EngineEvent]:
    """A running answer of *model*, which is loaded."""
    events = model.stream(ask(max_tokens=max_tokens, ignore_eos=True))
    assert any(isinstance(event, Queued) for event in events)
    return events


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


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


def test_a_model_that_lacks_memory_gets_that_of_those_that_nobody_uses(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others drop what they have saved. Where that is too little, the idle one that was used least
    recently leaves."""
    place, answers = make(), threading.Semaphore(0)
    names = ("pinned", "old", "new", "asks")
    pinned, old, new, asks = (
        place.model(name, find(GGUF).path, is_pinned=name == "pinned") for name in names
    )
    for n in range(12):  # more than stay in the KV cache itself
        list(pinned.stream(ask(f"Tale {n} of a fox and a hen.", max_tokens=2)))
    assert pinned.status().prefixes.n_saved > 0
    for model in (old, new):
        model.wait_ready()
    with closing(begun(asks)) as running:
        engine = asks._residence.engine
        assert engine is not None
        monkeypatch.setattr(engine, "answer_shortage", answers.release)
        with monkeypatch.context() as patch:  # here the others have saved as much as it lacks
            free = iter((1000, 1300))
            patch.setattr(place.host, "_free_bytes", lambda pids: next(free))
            engine._supervisor._on_report(MemoryShort(n_bytes=300))
            assert answers.acquire(timeout=60)
        assert [each.state().state for each in (pinned, old, new)] == ["loaded"] * 3
        report = MemoryShort(n_bytes=1 << 40)
        engine._supervisor._on_report(report)
        place.wait_until(lambda: old.state().state == "unloaded")
        assert [each.state().state for each in (pinned, new, asks)] == ["loaded"] * 3
        engine._supervisor._on_report(report)
        place.wait_until(lambda: new.state().state == "unloaded")
        engine._supervisor._on_report(report)  # nobody is left, which is an answer, too
        assert end_of(list(running)).usage.completion_tokens == 40
    assert pinned.state().state == "loaded"
    wait_until(lambda: pinned.status().prefixes.n_saved == 0)
    assert text_of(old.stream(ask(max_tokens=4)))


def test_a_model_is_laid_out_for_the_memory_that_it_may_take(
    make: Callable[..., Place], tmp_path: Path
) -> None:
    """It used to be laid out for all that the device has, whatever the budget was."""
    file = with_values(find(GGUF).path, tmp_path / "long.gguf", {"llama.context_length": 65_536})
    place = make(budget_bytes=ONE_MODEL)
    model = place.model("long", file)
    card = model.wait_ready()
    assert card.kv_bytes <= ONE_MODEL / 4
    assert model.state().held_bytes <= ONE_MODEL


def test_a_pinned_model_does_not_make_room(make: Callable[..., Place]) -> None:
    place = make(budget_bytes=ONE_MODEL)
    pinned, other = place.model(GGUF, is_pinned=True, keep_alive_s=0.0), place.model(ONNX)
    assert text_of(pinned.stream(ask(max_tokens=4)))
    with pytest.raises(NoRoomForModel):
        other.wait_ready()
    assert pinned.state().state == "loaded"


# --- memory of GPUs -----------------------------------------------------------------------------


class OnGpu(LocalEngine):
    """As if its worker had found a GPU with 8 GiB, and taken 5 GiB of it."""

    taken = 5 * GIB

    @property
    def card(self) -> ModelCard:
        memory = DeviceBytes(host=200 * 2**20, gpus=(self.taken,))
        return structs.replace(super().card, memory=memory, gpu_free_bytes=(8 * GIB,))

    def wait_ready(self, timeout_s: float | None = None) -> ModelCard:
        super().wait_ready(timeout_s)
        return self.card


class SmallOnGpu(OnGpu):
    """The same with 1 GiB of it."""

    taken = GIB


class Needs:
    """Of a model that takes as much of a GPU as it finds, 5 GiB at most."""

    def __init__(self) -> None:
        self.found: list[tuple[int, ...]] = []
        """What was free on the GPUs; empty: there was none."""

    def __call__(self, gpu: GpuMemory | None) -> DeviceBytes:
        self.found.append(() if gpu is None else gpu.free)
        gpus = tuple(min(5 * GIB, free) for free in self.found[-1])
        return DeviceBytes(host=200 * 2**20, gpus=gpus)


def test_a_model_on_the_gpu_makes_room_there_and_nobody_else_does(
    make: Callable[..., Place],
) -> None:
    """The GPU's memory counted as the host's, and was not looked at for the next model."""
    place, needs = make(), Needs()
    beside = place.model("beside", find(GGUF).path)
    first, second = (
        place.model(name, find(GGUF).path, kind=OnGpu, needed_bytes=needs) for name in "ab"
    )
    for model in (beside, first, second):
        model.wait_ready()
    assert needs.found == [(), (8 * GIB,), (3 * GIB,)]
    assert [model.is_loaded for model in (beside, first, second)] == [True, False, True]
    assert second.state().held_bytes > 5 * GIB


def larger_than_the_gpu(gpu: GpuMemory | None) -> DeviceBytes:
    """Of a model of 10 GiB, as if each of them took a thousandth of that on the host."""
    on_gpu = min(10 * GIB, 0 if gpu is None else gpu.free[0])
    return DeviceBytes(host=COMPUTE_BYTES + (10 * GIB - on_gpu) // 1000, gpus=(on_gpu,))


@pytest.mark.parametrize(
    ("kind", "budget_bytes", "stays"),
    [(SmallOnGpu, None, True), (OnGpu, None, False), (SmallOnGpu, 300 * 2**20, False)],
    ids=["most of it fits beside", "little of it would fit", "the host lacks memory"],
)
def test_a_model_larger_than_the_gpu_leaves_a_small_one_there(
    make: Callable[..., Place], kind: type[OnGpu], budget_bytes: int | None, stays: bool
) -> None:
    """It took all of the GPU, and at each switch between them one had to be loaded again."""
    place = make(budget_bytes=budget_bytes)
    small = place.model("small", find(GGUF).path, kind=kind)
    large = place.model("large", find(GGUF).path, needed_bytes=larger_than_the_gpu)
    for model in (small, large):
        model.wait_ready()
    assert small.is_loaded == stays


def test_what_stays_on_the_gpu_leaves_the_next_model_less_of_it(make: Callable[..., Place]) -> None:
    place, needs = make(), Needs()
    pinned = place.model("pinned", find(GGUF).path, kind=OnGpu, is_pinned=True)
    second = place.model("b", find(GGUF).path, needed_bytes=needs)
    quiet = place.model("c", find(GGUF).path, needed_bytes=needs)
    pinned.wait_ready()
    second.wait_ready()
    assert end_of(list(quiet.stream(ask(max_tokens=2, priority="background")))).reason == "length"
    assert needs.found == [(3 * GIB,)] * 2
    assert all(model.is_loaded for model in (pinned, second, quiet))


def test_the_memory_of_a_gpu_is_none_of_the_hosts(make: Callable[..., Place]) -> None:
    place = make(budget_bytes=ONE_MODEL + 200 * 2**20)
    on_gpu = place.model("a", find(GGUF).path, kind=OnGpu, needed_bytes=Needs())
    on_host = place.model(ONNX)
    for model in (on_gpu, on_host):
        model.wait_ready()
    assert on_gpu.is_loaded


def test_nobody_leaves_the_gpu_for_what_it_cannot_hold(make: Callable[..., Place]) -> None:
    place, needed = make(), DeviceBytes(gpus=(9 * GIB,))
    first = place.model("a", find(GGUF).path, kind=OnGpu)
    second = place.model("b", find(GGUF).path, needed_bytes=lambda gpu: needed)
    for model in (first, second):
        model.wait_ready()
    assert first.is_loaded


def test_the_memory_of_a_model_whose_worker_is_being_replaced_is_not_free(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()
    first = place.model(GGUF)
    first.wait_ready()
    monkeypatch.setattr(place.host, "_free_bytes", lambda pids: 1000 * bool(list(pids)) + 1000)
    second = place.model("second", find(GGUF).path, needed_bytes=lambda gpu: DeviceBytes(host=900))
    second.wait_ready()
    assert first.is_loaded
    second.unload()
    place.wait_until(lambda: not second.holds_memory)
    # It has a process, which has to load the model again: that memory used to be given away.
    loading = EngineStatus(state="restarting", n_restarts=1)
    engine = first._residence.engine
    monkeypatch.setattr(engine, "health", lambda: loading)
    monkeypatch.setattr(room, "resident_bytes", lambda pid: 100)
    second.wait_ready()
    assert not first.is_loaded


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
