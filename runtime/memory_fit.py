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
    return ContextFit(
        n_ctx=n_ctx,
        n_kv=-(-n_kv // _CELL_STEP) * _CELL_STEP,
        n_parallel=n_parallel,
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
