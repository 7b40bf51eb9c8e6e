"""From a layout that memory did not hold to the next smaller one."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct, structs

from spillover.runtime.fit.context_fit import (
    LEAST_N_BATCH,
    LEAST_N_CTX,
    ContextFit,
    rounded,
    with_bytes,
)
from spillover.runtime.fit.model_shape import ModelShape
from spillover.runtime.options import EngineOptions

LoadStage: TypeAlias = Literal["weights", "context"]
"""What was being made when memory ran out."""

CRASH_ADVICE = (
    "the file may be damaged, memory too small, or the library broken: run `spillover doctor`"
)
"""After a crash that does not tell its reason."""

Free: TypeAlias = tuple[int, int | None]
"""What is free for a model, in bytes: beside its weights, and on the GPU (None: there is none)."""

_GPU_STEPS = 4
"""In so many steps all layers leave the GPU."""

_SETTINGS = ("n_gpu_layers", "n_parallel", "n_kv", "kv_cache_type", "n_ctx")


class FailedFit(Struct, frozen=True, kw_only=True):
    """A layout that memory did not hold."""

    fit: ContextFit
    stage: LoadStage
    how: str
    """How that showed, in words."""
    is_guess: bool = False
    """The worker crashed, which may have other reasons than memory."""
    is_host: bool = False
    """It was the host's memory that ran out, for certain, and not a GPU's."""
    has_served: bool = False
    """It was loaded, and memory ran out later: answers go on in the next layout."""
    free: Free | None = None
    """The least that was free when it was planned, or one that failed before it; None: unknown."""


def least(first: Free | None, second: Free) -> Free:
    """The smaller of what was free at two times."""
    if first is None:
        return second
    on_gpu = [n for n in (first[1], second[1]) if n is not None]
    return min(first[0], second[0]), min(on_gpu, default=None)


def smaller(failed: FailedFit, options: EngineOptions, shape: ModelShape) -> ContextFit | None:
    """The next layout to try; None: there is none.

    Fewer layers on the GPU come first, then a smaller KV cache (fewer sequences, then a smaller
    format), then smaller calls and weights that are not repacked, then a smaller context. What the
    owner has set stays until nothing else is left; what then fits is only good for telling him.
    Where answers go on, it stays in any case, and so does the length of the context.
    """
    fit = failed.fit
    kept = frozenset(name for name in _SETTINGS if getattr(options, name) is not None)
    firm = (kept - {*fit.overridden}) | ({"n_ctx"} if failed.has_served else frozenset())
    steps = list(_FOR_WEIGHTS if failed.stage == "weights" else _STEPS)
    if failed.is_host:  # layers that leave the GPU would take more of it
        steps.remove(_fewer_gpu_layers)
    for fixed in (firm,) if failed.has_served else (firm, frozenset[str]()):
        for step in steps:
            found = step(fit, shape, fixed)
            if found is not None and options.deterministic and found.n_gpu_layers > 0:
                found = structs.replace(found, n_gpu_layers=0)  # all of them or none
            if found is None or not _is_allowed(found, failed, options):
                continue
            overridden = {n for n in kept if getattr(found, n) != getattr(fit, n)}
            return structs.replace(
                with_bytes(found, shape),
                too_large=fit.too_large or fit.in_words(),
                overridden=tuple(sorted({*fit.overridden, *overridden})),
                reason="",
                warnings=(),
            )
    return None


def _is_allowed(found: ContextFit, failed: FailedFit, options: EngineOptions) -> bool:
    """Whether a step helps, and keeps what no layout may change: where answers are to repeat
    themselves, none of them goes on with numbers that are rounded otherwise."""
    fit = failed.fit
    if options.deterministic:
        if found.n_batch < fit.n_batch:
            return False
        if failed.has_served and _rounding(found) != _rounding(fit):
            return False
    return options.use_extra_bufts or found.use_extra_bufts == fit.use_extra_bufts


def _rounding(fit: ContextFit) -> tuple[object, ...]:
    """What decides how the results of a model are rounded."""
    return fit.n_batch, fit.n_gpu_layers, fit.kv_cache_type, fit.use_extra_bufts


def _fewer_gpu_layers(
    fit: ContextFit, shape: ModelShape, fixed: frozenset[str]
) -> ContextFit | None:
    if not (fit.n_gpu_layers and shape.n_layers) or "n_gpu_layers" in fixed:
        return None
    n = shape.n_layers if fit.n_gpu_layers < 0 else min(fit.n_gpu_layers, shape.n_layers)
    return structs.replace(fit, n_gpu_layers=max(n - -(-shape.n_layers // _GPU_STEPS), 0))


def _fewer_sequences(
    fit: ContextFit, shape: ModelShape, fixed: frozenset[str]
) -> ContextFit | None:
    n_kv, n_parallel = fit.n_kv, fit.n_parallel
    if "n_kv" not in fixed:
        n_kv = min(rounded(max(fit.n_ctx, n_kv // 2)), n_kv)
    if "n_parallel" not in fixed:
        n_parallel = max(n_parallel // 2, 1)
    is_smaller = n_kv < fit.n_kv or (n_parallel < fit.n_parallel and not shape.shares_cells)
    return structs.replace(fit, n_kv=n_kv, n_parallel=n_parallel) if is_smaller else None


def _smaller_format(fit: ContextFit, shape: ModelShape, fixed: frozenset[str]) -> ContextFit | None:
    formats = shape.kv_formats
    if "kv_cache_type" in fixed or fit.kv_cache_type not in formats[:-1]:
        return None
    return structs.replace(fit, kv_cache_type=formats[formats.index(fit.kv_cache_type) + 1])


def _smaller_calls(fit: ContextFit, shape: ModelShape, fixed: frozenset[str]) -> ContextFit | None:
    if fit.n_batch <= LEAST_N_BATCH:
        return None
    return structs.replace(fit, n_batch=LEAST_N_BATCH)


def _no_repacking(fit: ContextFit, shape: ModelShape, fixed: frozenset[str]) -> ContextFit | None:
    if not (fit.use_extra_bufts and shape.is_gguf):
        return None
    return structs.replace(fit, use_extra_bufts=False)


def _smaller_context(
    fit: ContextFit, shape: ModelShape, fixed: frozenset[str]
) -> ContextFit | None:
    n_least = min(LEAST_N_CTX, shape.n_ctx_train)
    if fixed & {"n_ctx", "n_kv"} or fit.n_ctx <= n_least:
        return None
    n_ctx = max(fit.n_ctx // 2, n_least)
    return structs.replace(fit, n_ctx=n_ctx, n_kv=rounded(n_ctx))


_FOR_WEIGHTS = (_fewer_gpu_layers, _no_repacking)
_STEPS = (
    _fewer_gpu_layers,
    _fewer_sequences,
    _smaller_format,
    _smaller_calls,
    _no_repacking,
    _smaller_context,
)
