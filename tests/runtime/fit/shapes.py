"""A model that takes 2 GiB and its KV cells, on the host or on a GPU."""

from __future__ import annotations

from msgspec import structs

from spillover.runtime.fit.model_shape import ModelShape

GIB = 2**30
SHAPE = ModelShape(
    n_ctx_train=32_768,
    size_bytes=2 * GIB,
    kv_bytes_per_cell=24_576,
    kv_formats=("f16", "q8_0"),
    n_embd=2048,
    is_gguf=True,
)
ON_GPU = structs.replace(SHAPE, n_layers=25)
