"""Who leaves when memory is short: that of the host, or that of the GPUs."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from spillover.models.catalogue import find
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.engine import EngineStatus, ModelCard
from spillover.runtime.errors import EngineError, NoRoomForModel
from spillover.runtime.fit.device_fit import COMPUTE_BYTES
from spillover.runtime.fit.model_shape import GpuMemory
from spillover.runtime.hosting import room
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.worker.protocol import MemoryShort
from tests.answers import ask, end_of, text_of
from tests.gguf_edit import with_values
from tests.runtime.hosting.place import GGUF, ONE_MODEL, ONNX, Place, begun
from tests.waiting import wait_until

GIB = 2**30


def no_descriptor(pids: Iterable[int]) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_model_is_not_loaded_where_nobody_can_tell_what_is_free(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()
    monkeypatch.setattr(place.host._eviction, "_free_bytes", no_descriptor)
    with pytest.raises(EngineError, match=r"could not be loaded: .*Too many open files"):
        place.model(GGUF).wait_ready()


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
            patch.setattr(place.host._eviction, "_free_bytes", lambda pids: next(free))
            engine._supervisor._on_report(MemoryShort(n_bytes=300))
            assert answers.acquire(timeout=60)
        with monkeypatch.context() as patch:  # it waited for an answer that never came
            patch.setattr(place.host._eviction, "_free_bytes", no_descriptor)
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
    eviction = place.host._eviction
    monkeypatch.setattr(eviction, "_free_bytes", lambda pids: 1000 * bool(list(pids)) + 1000)
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
