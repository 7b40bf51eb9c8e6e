"""Lays out the context of a model that is about to be loaded, and remembers what loading taught."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct, structs

from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.errors import ModelError
from spillover.runtime.files.json_file import MeasurementStore, fingerprint
from spillover.runtime.fit.back_off import (
    CRASH_ADVICE,
    FailedFit,
    Free,
    LoadStage,
    least,
    smaller,
)
from spillover.runtime.fit.context_fit import GOOD_N_CTX, ContextFit, fit_context
from spillover.runtime.fit.model_shape import GpuMemory, ModelShape
from spillover.runtime.fit.placement import GPU_LEFT_BYTES, layers_in, taken
from spillover.runtime.machine.device import (
    available_memory,
    gpu_names,
    memory_floor,
    total_memory,
)
from spillover.runtime.options import EngineOptions

_MUCH_MORE = 1.25
"""With so many times the free memory, what did not fit then is tried again."""
_SERVING_BYTES = 64 * 2**20
"""What a worker takes for threads and requests, besides another context that reads prompts."""
_ANY_LAYERS = 1 << 20
"""More layers than a model has."""


class RememberedFit(Struct, frozen=True, kw_only=True):
    """A layout that was found by backing off."""

    fit: ContextFit
    free_bytes: Annotated[int, Meta(ge=0)]
    """The least that was free beside the weights while larger ones did not fit."""
    gpu_bytes: Annotated[int, Meta(ge=0)] | None = None
    """The same on the GPU."""
    how: str
    """How that showed."""

    def is_stale(self, free_bytes: int, gpu_bytes: int | None) -> bool:
        """Whether so much more memory is free now that a larger layout may fit."""
        has_more = free_bytes > _MUCH_MORE * self.free_bytes
        return has_more or (gpu_bytes or 0) > _MUCH_MORE * (self.gpu_bytes or 0)

    def is_within(self, estimate: ContextFit) -> bool:
        """Whether it takes no more than *estimate*, for which there is less memory, maybe."""
        most, n = (fit.n_gpu_layers % _ANY_LAYERS for fit in (estimate, self.fit))  # -1: all
        return self.fit.kv_bytes <= estimate.kv_bytes and n <= most


class Planner:
    """Plans one load. A plan begins with what was found by an earlier one, or with an estimate;
    after a layout that *failed* it is the next smaller one."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        failed: FailedFit | None = None,
        served: ContextFit | None = None,
        most_bytes: int | None = None,
        tell: Callable[[ContextFit, LoadStage, Free], None] = lambda fit, stage, free: None,
    ) -> None:
        """*served*: the layout of a worker that has ended, whose answers go on. *most_bytes*: what
        the model may take in all; None: what is free. *tell* gets each plan before it is tried,
        which may end this process, what is made first, and what is free."""
        self._options = options
        self._failed = failed
        self._served = served
        self._most_bytes = most_bytes
        self._tell = tell
        self._planned: tuple[ModelShape, ContextFit] | None = None
        self._free: Free = 0, None
        """When it was planned."""
        self._gpu: GpuMemory | None = None
        self._loaded: DeviceBytes | None = None
        """What the loaded model takes without its KV cache."""

    @property
    def free_bytes(self) -> int:
        """What the model may take now, with the floor left to other programs."""
        free = available_memory() - memory_floor()
        return free if self._most_bytes is None else min(free, self._most_bytes)

    @property
    def spare_bytes(self) -> int:
        """What the model may still take once it is loaded."""
        free = available_memory()
        if self._most_bytes is None or self._loaded is None:
            return free
        return min(free, self._most_bytes - self._loaded.host)

    @property
    def is_trying(self) -> bool:
        """Whether a layout was planned, and not proved yet."""
        return self._planned is not None

    def plan(self, shape: ModelShape, gpu: GpuMemory | None = None) -> ContextFit:
        """The layout to load with. *gpu*: what is free on the GPU; None: there is none. Raises
        ModelError if nothing smaller is left."""
        # Before it is loaded: loaded weights are free no more, and would count twice.
        self._gpu = gpu
        free_bytes = max(self.free_bytes - shape.size_bytes, 0)
        self._free = free_bytes, None if gpu is None else gpu.free_bytes
        if self._failed is not None:
            fit = self._smaller(shape)
        else:
            fit = self._served or self._begin(shape, gpu)
        self._planned = shape, fit
        self._tell(fit, "weights" if shape.is_gguf else "context", self._free)
        return fit

    def _begin(self, shape: ModelShape, gpu: GpuMemory | None) -> ContextFit:
        estimate = _estimate(self._options, shape, self.free_bytes, gpu)
        known = self._store(shape).read()
        if known is None or known.is_stale(*self._free) or not known.is_within(estimate):
            return estimate
        reason = f"found by loading before, when {known.fit.too_large} did not fit ({known.how})"
        return structs.replace(known.fit, reason=reason)

    def _smaller(self, shape: ModelShape) -> ContextFit:
        assert self._failed is not None
        fit = smaller(self._failed, self._options, shape)
        if fit is None and self._failed.has_served:
            return self._failed.fit  # it fitted before, and may do so again
        if fit is None and self._failed.is_guess:
            raise ModelError(f"{self._failed.how} while loading: {CRASH_ADVICE}")
        if fit is None:
            what = (
                f"its weights of {shape.size_bytes >> 20} MiB"
                if self._failed.stage == "weights"
                else self._failed.fit.in_words()
            )
            raise ModelError(
                f"memory does not even hold {what} ({self._failed.how}): close other programs, or "
                "choose a smaller model or quantization"
            )
        reason = f"found by loading: {fit.too_large} did not fit into memory ({self._failed.how})"
        return structs.replace(fit, reason=reason)

    def proved(self) -> None:
        """The layout was loaded: remember it if that was news. Raises ModelError if it leaves no
        memory to serve with, or is none that the owner wants."""
        assert self._planned is not None, "it was planned before it was loaded"
        shape, fit = self._planned
        _reserve(_SERVING_BYTES + shape.compute_bytes(fit.n_batch, fit.n_kv))
        self._planned = None
        self._loaded = taken(shape, structs.replace(fit, kv_bytes=0), self._gpu)
        if self._failed is None or self._failed.has_served:
            return  # what memory lacked for a moment says nothing about the next start
        if fit.overridden:
            set_to = ", ".join(f"{n} = {getattr(self._options, n)}" for n in fit.overridden)
            would = ", ".join(f"{n} = {getattr(fit, n)}" for n in fit.overridden)
            raise ModelError(
                f"memory does not hold {set_to}, as it is set ({self._failed.how}), but would hold "
                f"{would}: set that, leave it at auto, or close other programs"
            )
        # Memory may have been short for the larger layout, and no more for this one.
        free_bytes, gpu_bytes = least(self._failed.free, self._free)
        self._store(shape).write(
            RememberedFit(fit=fit, free_bytes=free_bytes, gpu_bytes=gpu_bytes, how=self._failed.how)
        )

    def _store(self, shape: ModelShape) -> MeasurementStore[RememberedFit]:
        """One for each model and device, and for what the owner has set."""
        options = self._options
        names = ("n_ctx", "n_kv", "n_parallel", "n_gpu_layers", "kv_cache_type", "n_prefix_cached")
        settings = [getattr(options, name) for name in names]
        sizes = shape.n_ctx_train, shape.size_bytes, shape.kv_bytes_per_cell, shape.is_gguf
        device = total_memory(), shape.n_layers, *gpu_names()
        facts = *sizes, *device, options.deterministic, *settings
        key = f"fit-{fingerprint(*facts)}"
        return MeasurementStore(options.cache_dir, key, RememberedFit)


def _reserve(n_bytes: int) -> None:
    """Take this much memory, untouched, and give it back. Raises ModelError."""
    try:
        mmap.mmap(-1, n_bytes).close()
    except (OSError, MemoryError) as error:
        raise ModelError(
            f"the model is loaded, but serving takes {n_bytes >> 20} MiB more: cannot allocate "
            f"memory ({error})"
        ) from error


def _estimate(
    options: EngineOptions, shape: ModelShape, free_bytes: int, gpu: GpuMemory | None
) -> ContextFit:
    """The layout for so much memory, and so much on the GPU, before anything is loaded: all in the
    GPU's memory where that holds a good context, else layer by layer in both."""
    size_bytes, wanted = shape.size_bytes, options.n_gpu_layers
    if gpu is None or not shape.n_layers or wanted == 0:
        return fit_context(options, shape, free_bytes - size_bytes)
    room = gpu.room_for(shape.n_layers, GPU_LEFT_BYTES)
    spare = room - size_bytes
    if gpu.is_shared:
        spare = min(spare, free_bytes - size_bytes)
        beside = min(free_bytes - size_bytes, room)
    else:
        share = 1.0 if wanted is None or wanted < 0 else min(wanted / shape.n_layers, 1.0)
        beside = free_bytes - size_bytes + min(room, int(size_bytes * share))
    if wanted in (None, -1) and spare > 0:
        fit = _on_gpu(fit_context(options, shape, spare), shape, gpu, wanted)
        is_good = options.n_ctx or options.n_kv or fit.n_ctx >= min(GOOD_N_CTX, shape.n_ctx_train)
        if is_good and fit.kv_bytes <= spare and fit.n_gpu_layers < 0:
            return fit
    if wanted is None and options.deterministic:
        # How many layers have room would decide how results are rounded: all of them, or none.
        return _on_gpu(fit_context(options, shape, free_bytes - size_bytes), shape, gpu, 0)
    return _on_gpu(fit_context(options, shape, beside), shape, gpu, wanted)


def _on_gpu(fit: ContextFit, shape: ModelShape, gpu: GpuMemory, wanted: int | None) -> ContextFit:
    """*fit* with the *wanted* layers on the GPU; None: as many as have room."""
    n = layers_in(gpu, fit, shape) if wanted is None else wanted
    return structs.replace(fit, n_gpu_layers=n)
