"""From a layout that memory does not hold to one that it holds, step by step."""

from __future__ import annotations

import itertools

import pytest
from msgspec import structs

from spillover.runtime.fit.back_off import FailedFit, Free, LoadStage, smaller
from spillover.runtime.fit.context_fit import ContextFit, fit_context
from spillover.runtime.fit.device_fit import fit_device
from spillover.runtime.fit.model_shape import GpuMemory, ModelShape
from spillover.runtime.fit.placement import layers_in
from spillover.runtime.fit.tries import MOST_GUESSES, MOST_TRIES, Tries
from spillover.runtime.options import EngineOptions
from tests.runtime.fit.shapes import GIB, ON_GPU, SHAPE

NAMES = ("n_gpu_layers", "n_parallel", "n_kv", "kv_cache_type", "n_batch", "use_extra_bufts")

FREE: Free = (GIB, None)


def failed(fit: ContextFit, stage: LoadStage = "context", *, has_served: bool = False) -> FailedFit:
    return FailedFit(fit=fit, stage=stage, how="", has_served=has_served)


def ladder(
    options: EngineOptions, shape: ModelShape = SHAPE, stage: LoadStage = "context"
) -> list[ContextFit]:
    """All layouts, from the first one to the smallest."""
    fits = [fit_context(options, shape, 16 * GIB)]
    while (fit := smaller(failed(fits[-1], stage), options, shape)) is not None:
        fits.append(fit)
    return fits


def changed(before: ContextFit, after: ContextFit) -> set[str]:
    """What the second layout has other than the first."""
    return {name for name in (*NAMES, "n_ctx") if getattr(before, name) != getattr(after, name)}


def test_first_the_gpu_then_the_cache_then_the_context_gets_smaller() -> None:
    fits = ladder(EngineOptions(), ON_GPU)
    assert [changed(*pair) for pair in itertools.pairwise(fits)] == [
        *[{"n_gpu_layers"}] * 4,
        *[{"n_kv", "n_parallel"}] * 2,
        {"kv_cache_type"},
        {"n_batch"},
        {"use_extra_bufts"},
        *[{"n_ctx", "n_kv"}] * 3,
    ]
    assert [fit.n_gpu_layers for fit in fits[:5]] == [-1, 18, 11, 4, 0]
    assert (fits[-1].n_ctx, fits[-1].n_kv, fits[-1].n_parallel) == (2048, 2048, 1)
    assert len(fits) <= MOST_TRIES
    assert all(fit.overridden == () for fit in fits)
    assert {fit.too_large for fit in fits[1:]} == {fits[0].in_words()}


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(n_ctx=16_384),
        EngineOptions(n_kv=40_000),
        EngineOptions(n_parallel=8, kv_cache_type="f16"),
        EngineOptions(n_gpu_layers=20, n_ctx=8192),
        EngineOptions(deterministic=True).settled(),
    ],
)
def test_what_the_owner_has_set_stays_until_nothing_else_is_left(options: EngineOptions) -> None:
    fits = ladder(options, ON_GPU)
    kept = [fit for fit in fits if not fit.overridden]
    assert fits[: len(kept)] == kept, "once a setting is not kept, it stays so"
    for name in ("n_ctx", "n_parallel", "n_gpu_layers", "kv_cache_type"):
        if getattr(options, name) is not None:
            assert {getattr(fit, name) for fit in kept} == {getattr(options, name)}
    assert len({fit.n_kv for fit in kept}) == 1 or options.n_kv is None
    assert fits[-1].overridden, "what would fit is found, too"
    assert len(fits) <= MOST_TRIES
    assert not options.deterministic or {fit.n_batch for fit in fits} == {512}


def test_weights_that_do_not_fit_are_not_cured_by_a_smaller_cache() -> None:
    fits = ladder(EngineOptions(), ON_GPU, "weights")
    changes = [changed(*pair) for pair in itertools.pairwise(fits)]
    assert changes == [*[{"n_gpu_layers"}] * 4, {"use_extra_bufts"}]


def test_a_layout_that_has_served_keeps_its_context() -> None:
    options = EngineOptions(n_parallel=4)
    fit = fit_context(options, SHAPE, 16 * GIB)
    fits = [fit]
    while (found := smaller(failed(fits[-1], has_served=True), options, SHAPE)) is not None:
        fits.append(found)
    assert {fit.n_ctx for fit in fits} == {fit.n_ctx}
    assert {fit.n_parallel for fit in fits} == {4}
    assert fits[-1].n_kv == fit.n_ctx < fit.n_kv
    assert not fits[-1].overridden


def test_each_sequence_of_an_onnx_model_has_cells_of_its_own() -> None:
    """Fewer of them help where the size of the cache is set."""
    shape = structs.replace(SHAPE, shares_cells=False, kv_formats=("f16",), is_gguf=False)
    fits = ladder(EngineOptions(n_kv=65_536), shape)
    assert [fit.n_parallel for fit in fits if not fit.overridden][:3] == [4, 2, 1]


# --- the estimate ------------------------------------------------------------------------------


def test_little_memory_makes_a_smaller_format_before_a_short_context() -> None:
    plenty, little = (fit_context(EngineOptions(), SHAPE, n * 2**20) for n in (4096, 320))
    assert (plenty.kv_cache_type, little.kv_cache_type) == ("f16", "q8_0")
    assert little.n_ctx >= 2048
    fixed = EngineOptions(kv_cache_type="f16")
    assert fit_context(fixed, SHAPE, 320 * 2**20).kv_cache_type == "f16"
    assert little.n_batch < plenty.n_batch == 512


def test_a_model_that_is_said_to_fit_gets_the_context_that_was_promised() -> None:
    """With a quarter of the rest for its cache it used to get less."""
    free = SHAPE.size_bytes + 420 * 2**20
    promised = fit_device(SHAPE, free).n_ctx
    assert promised >= 2048
    assert fit_context(EngineOptions(), SHAPE, free - SHAPE.size_bytes).n_ctx >= promised


def test_as_many_layers_as_fit_are_on_the_gpu() -> None:
    def layers(gib: float) -> int:
        fit = fit_context(EngineOptions(), ON_GPU, int(gib * GIB))
        return layers_in(GpuMemory(free=(int(gib * GIB),)), fit, ON_GPU)

    assert layers(8) == -1
    assert 0 < layers(1.5) < layers(2.5) < 25
    assert layers(0.3) == 0


# --- whose turn it is --------------------------------------------------------------------------


def test_only_a_worker_that_had_a_plan_and_lacked_memory_is_followed_by_a_smaller_one() -> None:
    fit = fit_context(EngineOptions(), SHAPE, GIB)
    tries = Tries()
    tries.begin()
    assert not tries.back_off("died", is_shortage=True), "it died before it laid out anything"
    tries.plan(fit, "weights", FREE)
    assert not tries.back_off("died", is_shortage=False)
    assert tries.back_off("died", is_shortage=True)
    assert tries.failed == FailedFit(
        fit=fit, stage="weights", how="the worker died", is_host=True, free=FREE
    )
    tries.begin()
    tries.plan(fit, "weights", FREE)
    tries.has_weights()
    tries.refuse("out of memory", "cudaMalloc failed: out of memory")
    assert tries.back_off("ended with status 0", is_shortage=False)
    assert tries.failed == FailedFit(fit=fit, stage="context", how="out of memory", free=FREE)


def test_what_the_hosts_memory_does_not_hold_stays_on_the_gpu() -> None:
    """Weights used to leave the GPU for the memory that had run out."""
    fit = fit_context(EngineOptions(), ON_GPU, 16 * GIB)
    for stage in ("weights", "context"):
        told = structs.replace(failed(fit, stage), is_host=True)
        while (found := smaller(told, EngineOptions(), ON_GPU)) is not None:
            assert found.n_gpu_layers == -1
            told = structs.replace(told, fit=found)
    tries = Tries()
    for message, is_host in (("unable to allocate CUDA0 buffer", False), ("bad_alloc", True)):
        tries.begin()
        tries.plan(fit, "weights", FREE)
        tries.refuse("out of memory", message)
        found_again = tries.back_off("ended with status 0", is_shortage=False)
        assert found_again is not None
        assert found_again.is_host == is_host


def test_an_answer_that_must_repeat_itself_never_goes_on_with_another_rounding() -> None:
    options = EngineOptions(deterministic=True).settled()
    fit = structs.replace(fit_context(options, ON_GPU, 16 * GIB), n_kv=65_536)
    told = failed(fit, has_served=True)
    names = {"n_gpu_layers", "kv_cache_type", "use_extra_bufts", "n_batch"}
    while (found := smaller(told, options, ON_GPU)) is not None:
        assert not changed(told.fit, found) & names
        told = failed(found, has_served=True)
    assert told.fit.n_kv < fit.n_kv
    at_load = smaller(failed(fit), options, ON_GPU)
    assert at_load is not None
    assert at_load.n_gpu_layers == 0


def test_crashes_that_tell_nothing_of_memory_are_followed_by_few_tries() -> None:
    fit = fit_context(EngineOptions(), SHAPE, GIB)
    tries = Tries()

    def back_off(*, is_shortage: bool = False) -> bool:
        tries.begin()
        tries.plan(fit, "context", FREE)
        return bool(tries.back_off("died", is_shortage=is_shortage, may_be_shortage=True))

    assert [back_off() for _ in range(2)] == [True] * 2
    assert back_off(is_shortage=True), "this one told"
    assert [back_off() for _ in range(MOST_GUESSES + 1)] == [True] * MOST_GUESSES + [False]
    assert tries.failed is not None
    assert tries.failed.is_guess
    assert not tries.failed.is_host
    assert not tries.is_exhausted


def test_the_least_that_was_free_for_larger_layouts_is_known_of_those_that_failed() -> None:
    fit, tries = fit_context(EngineOptions(), SHAPE, GIB), Tries()
    known: list[Free | None] = []
    for free in ((5, None), (3, 8), (4, 9), (6, None)):
        if len(known) == 3:
            tries.settle()  # the last one was loaded, and fails later
        tries.begin()
        tries.plan(fit, "weights", free)
        failed = tries.back_off("died", is_shortage=True)
        assert failed is not None
        known.append(failed.free)
    assert known == [(5, None), (3, 8), (3, 8), (6, None)]


def test_the_smallest_layout_that_has_served_is_known_by_being_planned_again() -> None:
    fit = fit_context(EngineOptions(), SHAPE, GIB)
    tries = Tries()
    tries.begin()
    tries.plan(fit, "weights", FREE)
    tries.settle()
    assert tries.has_smaller
    assert tries.back_off("died", is_shortage=True)
    tries.begin()
    tries.plan(fit, "weights", FREE)
    tries.settle()
    assert not tries.has_smaller
    tries.begin()  # it has died for another reason: it begins with its own plan
    tries.plan(fit, "weights", FREE)
    assert tries.has_smaller


def test_the_tries_are_bounded_and_begin_anew_when_the_model_is_loaded() -> None:
    tries = Tries()
    fit = fit_context(EngineOptions(), SHAPE, GIB)

    def back_off() -> bool:
        tries.begin()
        tries.plan(fit, "context", FREE)
        return tries.back_off("died", is_shortage=True) is not None

    assert [back_off() for _ in range(MOST_TRIES + 1)] == [True] * MOST_TRIES + [False]
    tries.settle()
    assert tries.failed is None
    assert back_off()
    assert tries.failed is not None
    assert tries.failed.has_served
