"""Fits a context into memory by an estimate: tokens, sequences, and the format of the KV cache."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, structs

from spillover.runtime.backend import N_BATCH
from spillover.runtime.fit.model_shape import ModelShape
from spillover.runtime.options import EngineOptions, KvCacheType

MIN_PARALLEL = 4
MAX_PARALLEL_DEFAULT = 8
MAX_N_CTX_DEFAULT = 16_384
MAX_N_KV_DEFAULT = 65_536
LEAST_N_CTX = 2048
"""A model that has no room for this many tokens of context does not fit."""
GOOD_N_CTX = 4096
"""For a context of so many tokens the KV cache takes a smaller format."""
LEAST_N_BATCH = 128

KV_SHARE_OF_FREE_MEMORY = 0.25
MAX_KV_BYTES_DEFAULT = 2 * 2**30
"""llama.cpp touches the whole KV cache at load, so its default size stays modest."""
_MOST_KV_SHARE = 0.75
"""Of the free memory, for the tokens that the owner asks for."""
_COMPUTE_SHARE = 1 / 8
"""Of the free memory, for what calls compute; beyond that they have fewer tokens."""

CELL_STEP = 256
"""llama.cpp rounds the number of cells up to this."""

_Count = Annotated[int, Meta(ge=1, le=2**40)]


class ContextFit(Struct, frozen=True, kw_only=True):
    """The layout of a context: tokens per sequence, cells in all, sequences at a time."""

    n_ctx: _Count
    n_kv: _Count
    n_parallel: Annotated[int, Meta(ge=1, le=64)]
    n_batch: Annotated[int, Meta(ge=1, le=N_BATCH)] = N_BATCH
    """Most tokens of one call."""
    kv_cache_type: KvCacheType = "f16"
    n_gpu_layers: Annotated[int, Meta(ge=-1, le=10_000)] = -1
    """-1: all, if there is a GPU."""
    use_extra_bufts: bool = True
    """There is memory for weights that llama.cpp repacks."""
    kv_bytes: Annotated[int, Meta(ge=0)] = 0
    warnings: tuple[str, ...] = ()
    reason: str = ""
    """Why this layout, for people to read."""
    too_large: str = ""
    """The layout that was wanted first and did not fit, in words."""
    overridden: tuple[str, ...] = ()
    """Settings of the owner that this layout does not keep."""

    def in_words(self) -> str:
        """For people to read."""
        parts = [
            f"{self.n_parallel} answer{'s' * (self.n_parallel > 1)} at a time",
            f"{self.n_ctx} tokens of context",
            f"a KV cache of {self.n_kv} tokens ({self.kv_cache_type}, {self.kv_bytes >> 20} MiB)",
        ]
        if self.n_batch < N_BATCH:
            parts.append(f"prompts read {self.n_batch} tokens at a time")
        if self.n_gpu_layers >= 0:
            parts.append(f"{self.n_gpu_layers} layers on the GPU")
        if not self.use_extra_bufts:
            parts.append("weights as they are in the file")
        return ", ".join(parts)


def fit_context(options: EngineOptions, shape: ModelShape, free_bytes: int) -> ContextFit:
    """Choose what *options* leave open; *free_bytes* is the memory left beside the weights."""
    free_bytes = max(free_bytes, 0)
    kv_format = options.kv_cache_type or _format_for(options, shape, free_bytes)
    cell_bytes = max(shape.cell_bytes(kv_format), 1.0)
    n_cells = _cells_in(free_bytes, cell_bytes, shape)
    n_ctx = options.n_ctx or min(shape.n_ctx_train, MAX_N_CTX_DEFAULT, n_cells)
    if options.n_kv is not None:
        n_ctx = min(n_ctx, options.n_kv)
    n_parallel = options.n_parallel or min(
        max(n_cells // n_ctx, MIN_PARALLEL), MAX_PARALLEL_DEFAULT
    )
    n_kv = rounded(options.n_kv or max(n_ctx, min(n_ctx * n_parallel, n_cells)))
    fit = ContextFit(
        n_ctx=n_ctx,
        n_kv=n_kv,
        n_parallel=n_parallel,
        n_batch=N_BATCH if options.deterministic else _batch_for(free_bytes, shape, n_kv),
        kv_cache_type=kv_format,
        n_gpu_layers=-1 if options.n_gpu_layers is None else options.n_gpu_layers,
    )
    fit = with_bytes(fit, shape)
    return structs.replace(
        fit,
        warnings=_warnings(options, fit, shape, free_bytes),
        reason=_reason(options, fit, shape, free_bytes),
    )


def _cells_in(free_bytes: int, cell_bytes: float, shape: ModelShape) -> int:
    budget = min(free_bytes * KV_SHARE_OF_FREE_MEMORY, MAX_KV_BYTES_DEFAULT)
    n_least = min(LEAST_N_CTX, shape.n_ctx_train)  # loading shows whether there is room for it
    return min(max(int(budget / cell_bytes), n_least, CELL_STEP), MAX_N_KV_DEFAULT)


def _format_for(options: EngineOptions, shape: ModelShape, free_bytes: int) -> KvCacheType:
    """The best format in which the tokens that are asked for fit, or a good context."""
    n_asked = options.n_kv or options.n_ctx
    for kv_format in shape.kv_formats:
        cell_bytes = max(shape.cell_bytes(kv_format), 1.0)
        if n_asked is not None:
            is_enough = n_asked * cell_bytes <= free_bytes * _MOST_KV_SHARE
        else:
            n_cells = _cells_in(free_bytes, cell_bytes, shape)
            is_enough = n_cells >= min(GOOD_N_CTX, shape.n_ctx_train)
        if is_enough:
            return kv_format
    return shape.kv_formats[-1]


def _batch_for(free_bytes: int, shape: ModelShape, n_kv: int) -> int:
    n_batch = N_BATCH
    while (
        n_batch > LEAST_N_BATCH and shape.compute_bytes(n_batch, n_kv) > free_bytes * _COMPUTE_SHARE
    ):
        n_batch //= 2
    return n_batch


def rounded(n_cells: int) -> int:
    """As many cells as llama.cpp makes of *n_cells*."""
    return -(-n_cells // CELL_STEP) * CELL_STEP


def with_bytes(fit: ContextFit, shape: ModelShape) -> ContextFit:
    """*fit* with the size of its KV cache."""
    kv_bytes = int(fit.n_kv * shape.cell_bytes(fit.kv_cache_type))
    return structs.replace(fit, kv_bytes=kv_bytes)


def _reason(options: EngineOptions, fit: ContextFit, shape: ModelShape, free_bytes: int) -> str:
    compute = shape.compute_bytes(fit.n_batch, fit.n_kv)
    names = [name for name in ("n_ctx", "n_kv", "n_parallel") if getattr(options, name) is not None]
    names += ["kv_cache_type"] * (options.kv_cache_type is not None)
    set_by_owner = f"; as set: {', '.join(names)}" if names else ""
    return (
        f"estimated: {shape.size_bytes >> 20} MiB of weights, {fit.kv_bytes >> 20} MiB of KV cache "
        f"when it is full and {compute >> 20} MiB for computing, where {free_bytes >> 20} MiB are "
        f"free beside the weights{set_by_owner}"
    )


def _warnings(
    options: EngineOptions, fit: ContextFit, shape: ModelShape, free_bytes: int
) -> tuple[str, ...]:
    warnings = []
    if fit.n_ctx > shape.n_ctx_train:
        warnings.append(
            f"n_ctx is {fit.n_ctx} but the model was trained for {shape.n_ctx_train} tokens: "
            "answers past that may be poor"
        )
    if options.n_ctx is not None and fit.n_ctx < options.n_ctx:
        warnings.append(f"n_ctx was lowered to {fit.n_ctx}, the number of KV cells (n_kv)")
    if fit.kv_bytes > free_bytes:
        warnings.append(
            f"the KV cache takes {fit.kv_bytes / 2**20:.0f} MiB but only "
            f"{free_bytes / 2**20:.0f} MiB are free: lower n_ctx, n_kv or n_parallel"
        )
    return tuple(warnings)
