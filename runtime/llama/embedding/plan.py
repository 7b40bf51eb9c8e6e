"""What a GGUF file says about vectors and scores: whether it is made for them, and how."""

from __future__ import annotations

from math import isqrt

from msgspec import Struct

from spillover.models.gguf_header import GgufHeader
from spillover.runtime.embedding_request import Pooling
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import available_memory
from spillover.runtime.options import EngineOptions

_POOLINGS: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""As the file's pooling_type numbers them."""
_OTHER_ENCODERS = ("t5encoder", "gemma-embedding")

MAX_N_CTX_DEFAULT = 8_192
_MEMORY_SHARE = 0.25
_MASK_BYTES = 6
"""Of an attention mask per pair of tokens, in both formats that llama.cpp keeps."""


class EmbeddingPlan(Struct, frozen=True, kw_only=True):
    """How vectors or scores are made."""

    pooling: Pooling
    is_whole: bool
    """Each token attends to all others, so that an input cannot be read in parts."""
    n_ctx: int


def is_made_for_embedding(header: GgufHeader) -> bool:
    """Whether the model is of no use for answers."""
    kind = header.architecture
    return "bert" in kind or kind in _OTHER_ENCODERS or _pooling_of(header) is not None


def plan_embedding(header: GgufHeader, options: EngineOptions, n_ctx: int) -> EmbeddingPlan:
    """The plan for inputs of up to *n_ctx* tokens."""
    own = _pooling_of(header)
    chosen: Pooling = own or "mean"
    if options.pooling != "auto" and own != "rank":
        chosen = options.pooling
    return EmbeddingPlan(pooling=chosen, is_whole=_is_whole(header), n_ctx=n_ctx)


def longest_input(header: GgufHeader, options: EngineOptions) -> int:
    """Most tokens of an input of a model that is made for vectors. Raises ModelError."""
    n_positions = _n_positions(header)
    if options.n_ctx is not None:
        if n_positions is not None and options.n_ctx > n_positions:
            raise ModelError(f"n_ctx is {options.n_ctx}, but the model has {n_positions} positions")
        return options.n_ctx
    n_ctx = min(header.n_ctx_train or 512, MAX_N_CTX_DEFAULT)
    if _is_whole(header):
        budget = max(available_memory() - header.file_size, 0) * _MEMORY_SHARE
        n_ctx = min(n_ctx, max(isqrt(int(budget) // _MASK_BYTES), 512))
    return n_ctx if n_positions is None else min(n_ctx, n_positions)


def _pooling_of(header: GgufHeader) -> Pooling | None:
    number = header.metadata.get(f"{header.architecture}.pooling_type")
    return _POOLINGS.get(number) if isinstance(number, int) else None


def _is_whole(header: GgufHeader) -> bool:
    kind = header.architecture
    is_causal = header.metadata.get(f"{kind}.attention.causal", True)
    return "bert" in kind or kind in _OTHER_ENCODERS or is_causal is False


def _n_positions(header: GgufHeader) -> int | None:
    """Rows of the table of positions; None where positions are computed."""
    tables = [t.shape[-1] for t in header.tensors if t.name == "position_embd.weight"]
    return min(tables, default=None)
