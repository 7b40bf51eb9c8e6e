"""The first layout of a model: an estimate, or what an earlier start has found."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from spillover.runtime.errors import ModelError
from spillover.runtime.fit import planner
from spillover.runtime.fit.back_off import FailedFit, Free
from spillover.runtime.fit.context_fit import ContextFit
from spillover.runtime.fit.model_shape import GpuMemory, ModelShape, gpu_memory_of
from spillover.runtime.fit.planner import Planner
from spillover.runtime.machine.device import memory_floor
from spillover.runtime.options import EngineOptions
from tests.runtime.fit.shapes import GIB, ON_GPU, SHAPE


class Device:
    """One with so much free memory, and so much on its GPU."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gib = 8.0
        self.gpu_gib: float | tuple[float, ...] | None = None
        self.is_shared = False
        self.gpus: tuple[str, ...] = ()
        self.failed_with: Free | None = None
        """What was free for layouts that failed."""
        self._folder = folder
        monkeypatch.setattr(planner, "available_memory", self._available)
        monkeypatch.setattr(planner, "gpu_names", lambda: self.gpus)

    def _available(self) -> int:
        return int(self.gib * GIB) + memory_floor()

    def options(self, **changed: int) -> EngineOptions:
        return EngineOptions(cache_dir=self._folder, **changed)  # type: ignore[arg-type]  # by name

    def plan(
        self, shape: ModelShape = SHAPE, failed: ContextFit | None = None, **options: int
    ) -> tuple[Planner, ContextFit]:
        below = None
        if failed is not None:
            below = FailedFit(fit=failed, stage="context", how="it died", free=self.failed_with)
        found = Planner(self.options(**options), failed=below)
        gpu = None
        if self.gpu_gib is not None:
            each = self.gpu_gib if isinstance(self.gpu_gib, tuple) else (self.gpu_gib,)
            free = tuple(int(gib * GIB) for gib in each)
            gpu = GpuMemory(free=free, is_shared=self.is_shared)
        return found, found.plan(shape, gpu)

    def back_off(self, shape: ModelShape = SHAPE) -> ContextFit:
        """Load what is left after the first plan has failed; the weights take their memory."""
        _, fit = self.plan(shape)
        found, fit = self.plan(shape, fit)
        self.gib -= shape.size_bytes / GIB
        found.proved()
        self.gib += shape.size_bytes / GIB
        return fit

    def remembers(self, shape: ModelShape = SHAPE) -> bool:
        return self.plan(shape)[1].reason.startswith("found by loading before")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


@pytest.mark.parametrize("gib", [8.0, 2.5, 1.0])
def test_what_was_found_is_used_again_with_the_same_memory(device: Device, gib: float) -> None:
    """Weights that took their memory counted twice, and each start began anew."""
    device.gib = gib
    found = device.back_off()
    assert device.remembers()
    assert device.plan()[1].in_words() == found.in_words()


def test_with_much_more_memory_the_estimate_is_tried_again(device: Device) -> None:
    device.back_off()
    device.gib = 12.0
    assert not device.remembers()


def test_what_was_found_in_a_short_shortage_is_not_used_after_it(device: Device) -> None:
    """When another program took the memory and gave it back between two tries, the smaller layout
    counted as found with all of it, and stayed for ever."""
    device.failed_with = int(0.5 * GIB), None
    device.back_off()
    assert not device.remembers()


def test_what_was_found_is_not_used_with_much_less_memory(device: Device) -> None:
    """It took more than the estimate for what is free now."""
    found = device.back_off()
    device.gib = 2.3
    now = device.plan()[1]
    assert not device.remembers()
    assert now.kv_bytes < found.kv_bytes


def test_what_was_found_with_a_gpu_holds_for_its_memory_and_no_other(device: Device) -> None:
    """Only the memory of the host counted."""
    device.gpu_gib, device.gpus = 8.0, ("One",)
    device.back_off(ON_GPU)
    assert device.remembers(ON_GPU)
    device.gpu_gib = 16.0
    assert not device.remembers(ON_GPU)
    device.gpu_gib = 1.0  # with fewer layers in it than were found
    assert not device.remembers(ON_GPU)
    device.gpu_gib, device.gpus = 8.0, ("Another",)
    assert not device.remembers(ON_GPU)
    assert not device.remembers(SHAPE)


def test_answers_go_on_in_the_layout_that_they_began_in(device: Device) -> None:
    """With less free memory than then, their context used to become too short for them."""
    served = device.plan()[1]
    device.gib = 2.3
    assert device.plan()[1].n_ctx < served.n_ctx
    assert Planner(device.options(), served=served).plan(SHAPE) == served


# --- the estimate on a GPU ----------------------------------------------------------------------

LARGE = structs.replace(ON_GPU, size_bytes=14 * GIB)


def test_a_model_that_the_gpu_holds_needs_no_memory_of_the_host(device: Device) -> None:
    """It used to get the least context, in a smaller format."""
    device.gib, device.gpu_gib = 10.0, 24.0
    fit = device.plan(LARGE)[1]
    assert (fit.n_gpu_layers, fit.n_ctx, fit.kv_cache_type) == (-1, 16_384, "f16")


@pytest.mark.parametrize("gpu_gib", [7.0, 14.3])
def test_a_model_in_both_memories_counts_each_layer_once(device: Device, gpu_gib: float) -> None:
    device.gib, device.gpu_gib = 10.0, gpu_gib
    fit = device.plan(LARGE)[1]
    assert 10 <= fit.n_gpu_layers < 25
    assert (fit.n_ctx, fit.kv_cache_type) == (16_384, "f16")


@pytest.mark.parametrize("gpu_gib", [(8.0, 8.0), (12.0, 4.0), (10.0, 0.8, 4.0), (6.5, 6.5, 2.0)])
def test_every_gpu_holds_the_layers_that_it_gets(
    device: Device, gpu_gib: tuple[float, ...]
) -> None:
    """Their memory used to be one sum: what every GPU needs beside its layers counted once, and
    layers that are not divisible for nothing."""
    device.gib, device.gpu_gib = 64.0, gpu_gib
    fit = device.plan(LARGE)[1]
    n = LARGE.n_layers if fit.n_gpu_layers < 0 else fit.n_gpu_layers
    assert 15 <= n <= LARGE.n_layers
    gpu = GpuMemory(free=tuple(int(gib * GIB) for gib in gpu_gib))
    each = gpu.layers_on_each(n)
    assert sum(each) == n
    layer = (LARGE.size_bytes + fit.kv_bytes) / LARGE.n_layers
    for free, n_here in zip(gpu.free, each, strict=True):
        beside = LARGE.compute_bytes(fit.n_batch, fit.n_kv)
        assert not n_here or n_here * layer + beside <= free


def test_layers_are_distributed_as_llama_cpp_does() -> None:
    for free, n, expected in (
        ((8, 8), 25, [13, 12]),
        ((12, 4), 25, [19, 6]),
        ((10, 1, 4), 3, [2, 1, 0]),
        ((5, 0), 7, [7, 0]),
        ((24,), 33, [33]),
    ):
        assert GpuMemory(free=free).layers_on_each(n) == expected


def test_an_integrated_gpu_gets_no_layers_beside_another() -> None:
    """Its memory, which is the host's, used to be added."""
    own = {"is_gpu": True, "shares_memory": False, "free_bytes": 4}
    shared = {"is_gpu": True, "shares_memory": True, "free_bytes": 9}
    processor = {"is_gpu": False, "shares_memory": False, "free_bytes": 64}
    assert gpu_memory_of([processor, own, shared, own]) == GpuMemory(free=(4, 4))
    assert gpu_memory_of([shared]) == GpuMemory(free=(9,), is_shared=True)
    assert gpu_memory_of([processor]) is None


@pytest.mark.parametrize("gib", [5.0, 7.0])
def test_memory_that_the_gpu_shares_with_the_host_is_counted_once(
    device: Device, gib: float
) -> None:
    shape = structs.replace(ON_GPU, size_bytes=6 * GIB)
    device.gib, device.gpu_gib, device.is_shared = gib, 8.0, True
    shared = device.plan(shape)[1]
    device.gpu_gib = None
    assert shared.in_words() == device.plan(shape)[1].in_words()


@pytest.mark.parametrize(("gpu_gib", "n_gpu_layers"), [(24.0, -1), (14.3, 0), (7.0, 0)])
def test_where_answers_are_to_repeat_themselves_all_layers_are_on_the_gpu_or_none(
    device: Device, gpu_gib: float, n_gpu_layers: int
) -> None:
    device.gpu_gib = gpu_gib
    assert device.plan(LARGE, deterministic=True)[1].n_gpu_layers == n_gpu_layers


def test_a_model_on_the_gpu_takes_none_of_what_the_host_lets_it_have(device: Device) -> None:
    """Its weights were subtracted from that, and nothing was left for saved prompts."""
    found = Planner(device.options(), most_bytes=4 * GIB)
    fit = found.plan(LARGE, GpuMemory(free=(24 * GIB,)))
    assert fit.n_gpu_layers == -1
    found.proved()
    assert found.spare_bytes > 3 * GIB


def test_a_crash_is_not_called_a_lack_of_memory(device: Device) -> None:
    """A damaged file used to ask for a smaller model."""
    least = ContextFit(n_ctx=2048, n_kv=2048, n_parallel=1, n_batch=128, use_extra_bufts=False)
    below = FailedFit(fit=least, stage="weights", how="the worker died", is_guess=True)
    with pytest.raises(ModelError, match=r"the worker died while loading.*spillover doctor"):
        Planner(device.options(), failed=below).plan(SHAPE)
    told = structs.replace(below, is_guess=False)
    with pytest.raises(ModelError, match="does not even hold its weights"):
        Planner(device.options(), failed=told).plan(SHAPE)


def test_layers_that_the_owner_keeps_off_the_gpu_take_memory_of_the_host(device: Device) -> None:
    device.gib, device.gpu_gib = 14.5, 24.0
    fits = [device.plan(LARGE, n_gpu_layers=n)[1] for n in (0, 12)]
    assert [fit.n_gpu_layers for fit in fits] == [0, 12]
    assert fits[0].kv_bytes < fits[1].kv_bytes
