"""Fits the KV cache into memory: how many cells, and for how many sequences."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.options import EngineOptions

MIN_PARALLEL = 4
MAX_PARALLEL_DEFAULT = 8
MAX_N_CTX_DEFAULT = 16_384
MAX_N_KV_DEFAULT = 65_536

KV_SHARE_OF_FREE_MEMORY = 0.25
MAX_KV_BYTES_DEFAULT = 2 * 2**30
"""llama.cpp touches the whole KV cache at load, so its default size stays modest."""

_CELL_STEP = 256
"""llama.cpp rounds the number of cells up to this."""

KV_BYTES_PER_VALUE = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}


class ContextFit(Struct, frozen=True, kw_only=True):
    """The layout of a context: tokens per sequence, cells in all, sequences at a time."""

    n_ctx: int
    n_kv: int
    n_parallel: int
    kv_bytes: int = 0
    warnings: tuple[str, ...] = ()


def fit_context(
    options: EngineOptions, *, n_ctx_train: int, kv_bytes_per_cell: float, free_bytes: int
) -> ContextFit:
    """Choose what *options* leave open; *free_bytes* is the memory left beside the weights."""
    budget = min(max(free_bytes, 0) * KV_SHARE_OF_FREE_MEMORY, MAX_KV_BYTES_DEFAULT)
    n_cells = max(int(budget / max(kv_bytes_per_cell, 1.0)), _CELL_STEP)
    n_cells = min(n_cells, MAX_N_KV_DEFAULT)
    n_ctx = options.n_ctx or min(n_ctx_train, MAX_N_CTX_DEFAULT, n_cells)
    if options.n_kv is not None:
        n_ctx = min(n_ctx, options.n_kv)
    n_parallel = options.n_parallel or min(
        max(n_cells // n_ctx, MIN_PARALLEL), MAX_PARALLEL_DEFAULT
    )
    n_kv = options.n_kv or max(n_ctx, min(n_ctx * n_parallel, n_cells))
    n_kv = -(-n_kv // _CELL_STEP) * _CELL_STEP
    return ContextFit(
        n_ctx=n_ctx,
        n_kv=n_kv,
        n_parallel=n_parallel,
        kv_bytes=int(n_kv * kv_bytes_per_cell),
        warnings=_warnings(options, n_ctx, n_ctx_train, n_kv * kv_bytes_per_cell, free_bytes),
    )


def _warnings(
    options: EngineOptions, n_ctx: int, n_ctx_train: int, kv_bytes: float, free_bytes: int
) -> tuple[str, ...]:
    warnings = []
    if n_ctx > n_ctx_train:
        warnings.append(
            f"n_ctx is {n_ctx} but the model was trained for {n_ctx_train} tokens: "
            "answers past that may be poor"
        )
    if options.n_ctx is not None and n_ctx < options.n_ctx:
        warnings.append(f"n_ctx was lowered to {n_ctx}, the number of KV cells (n_kv)")
    if kv_bytes > free_bytes:
        warnings.append(
            f"the KV cache takes {kv_bytes / 2**20:.0f} MiB but only {free_bytes / 2**20:.0f} MiB "
            "are free: lower n_ctx, n_kv or n_parallel"
        )
    return tuple(warnings)


COMPUTE_BYTES = 200 * 2**20
"""What a server and its worker take besides weights and KV cache, with some room."""

LEAST_N_CTX = 2048
"""A model that has no room for this many tokens of context does not fit."""


class DeviceFit(Struct, frozen=True, kw_only=True):
    """Whether a model that may not be here yet fits into memory."""

    n_ctx: int
    """Tokens of context for one conversation; 0 where it does not fit."""
    missing_bytes: int = 0
    """Memory that would have to be freed for it to fit."""


def least_bytes(
    options: EngineOptions, *, size_bytes: int, n_ctx_train: int, kv_bytes_per_cell: float
) -> int:
    """The memory that a model of *size_bytes* needs at least, in bytes: with the context that
    *options* ask for, else with LEAST_N_CTX tokens."""
    n_cells = options.n_kv or options.n_ctx or min(LEAST_N_CTX, n_ctx_train)
    return size_bytes + COMPUTE_BYTES + int(n_cells * kv_bytes_per_cell)


def fit_device(
    *, size_bytes: int, n_ctx_train: int, kv_bytes_per_cell: float, free_bytes: int
) -> DeviceFit:
    """Estimate how a model of *size_bytes* would fit into *free_bytes* of memory."""
    options = EngineOptions(n_parallel=1)
    needed = least_bytes(
        options,
        size_bytes=size_bytes,
        n_ctx_train=n_ctx_train,
        kv_bytes_per_cell=kv_bytes_per_cell,
    )
    if needed > free_bytes:
        return DeviceFit(n_ctx=0, missing_bytes=needed - free_bytes)
    room = free_bytes - size_bytes - COMPUTE_BYTES
    fit = fit_context(
        options,
        n_ctx_train=n_ctx_train,
        kv_bytes_per_cell=kv_bytes_per_cell,
        free_bytes=room,
    )
    return DeviceFit(n_ctx=max(fit.n_ctx, min(LEAST_N_CTX, n_ctx_train)))
