"""Whether a model that may not be here yet fits into memory."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.fit.context_fit import LEAST_N_CTX, ContextFit, fit_context, with_bytes
from spillover.runtime.fit.model_shape import ModelShape
from spillover.runtime.options import EngineOptions

COMPUTE_BYTES = 200 * 2**20
"""What a server and its worker take besides weights and KV cache, with some room."""


class DeviceFit(Struct, frozen=True, kw_only=True):
    """Whether a model fits, and with which context."""

    n_ctx: int
    """Tokens of context for one conversation; 0 where it does not fit."""
    missing_bytes: int = 0
    """Memory that would have to be freed for it to fit."""


def least_fit(options: EngineOptions, shape: ModelShape) -> ContextFit:
    """The smallest layout of a model: with the context that *options* ask for, else with
    LEAST_N_CTX tokens."""
    n_cells = options.n_kv or options.n_ctx or min(LEAST_N_CTX, shape.n_ctx_train)
    kv_format = options.kv_cache_type or shape.kv_formats[-1]
    fit = ContextFit(n_ctx=n_cells, n_kv=n_cells, n_parallel=1, kv_cache_type=kv_format)
    return with_bytes(fit, shape)


def fit_device(shape: ModelShape, free_bytes: int) -> DeviceFit:
    """Estimate how a model would fit into *free_bytes* of memory."""
    options = EngineOptions(n_parallel=1)
    needed = shape.size_bytes + COMPUTE_BYTES + least_fit(options, shape).kv_bytes
    if needed > free_bytes:
        return DeviceFit(n_ctx=0, missing_bytes=needed - free_bytes)
    fit = fit_context(options, shape, free_bytes - shape.size_bytes - COMPUTE_BYTES)
    return DeviceFit(n_ctx=max(fit.n_ctx, min(LEAST_N_CTX, shape.n_ctx_train)))
