"""The inputs and outputs of a decoder's graph, as found in the graph itself."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Attention = Literal["gqa", "scatter", "growing"]
"""gqa: GroupQueryAttention; the KV buffers are past and present at once, lengths come as numbers.
scatter: TensorScatter writes into such buffers.
growing: present is past and the new positions in a row, a new array after every call."""

LogitsForm = Literal["all", "last", "asked"]
"""all: (rows, positions, vocabulary); last: (rows, 1, vocabulary), of the last position;
asked: (number of asked positions, vocabulary), as logits_rows lists them."""


class CacheTensor(Struct, frozen=True, kw_only=True):
    """One tensor of the KV cache: an input of the graph and the output that follows it."""

    layer: int
    """The graph's own number of the layer; there may be gaps."""
    kind: Literal["key", "value", "both"]
    past: str
    present: str
    dtype: str
    """A numpy name: float32, float16, int8, uint8; or bfloat16."""
    shape: tuple[int | None, ...]
    """None where the graph leaves the size open."""
    batch_axis: int
    length_axis: int

    @property
    def capacity(self) -> int | None:
        """Positions, when the graph fixes them."""
        return self.shape[self.length_axis]


class GraphInputs(Struct, frozen=True, kw_only=True):
    """The names of the inputs besides the KV cache; None for those that the graph lacks."""

    ids: str
    """Tokens, int64 or int32 (rows, positions)."""
    mask: str | None = None
    """1 for every visible position, including past ones, 0 for padding; (rows, past +
    positions)."""
    positions: str | None = None
    """Of the new tokens, (rows, positions)."""
    seqlens_k: str | None = None
    """int32 (rows,): position of each row's last new token, which is its length minus one."""
    total_length: str | None = None
    """int32 scalar: the longest row's length."""
    query_lengths: str | None = None
    """int32 (rows,): how many of a row's new tokens are real; the rest are padding."""
    logits_rows: str | None = None
    """int64 (asked,): the positions whose logits are wanted, as row · positions + position."""
    n_logits: str | None = None
    """int64 scalar: for how many of the last positions logits are wanted."""
    write_indices: str | None = None
    """int64 (rows,): where TensorScatter writes: each row's length before the call."""
    kv_lengths: str | None = None
    """int64 (rows,): each row's length after the call, where TensorScatter writes."""
    branch: str | None = None
    """bool (1,): use_cache_branch of a merged decoder; true once there is a past."""


class GraphLayout(Struct, frozen=True, kw_only=True):
    """Everything that a runtime needs to know about a graph."""

    attention: Attention
    inputs: GraphInputs
    caches: tuple[CacheTensor, ...]
    """By layer, key before value."""
    logits: str
    logits_dtype: str
    logits_form: LogitsForm
    ids_dtype: str
    n_vocab: int | None
    n_ctx: int | None
    """Positions that the graph has rotary angles for; None: no limit."""
    batch_size: int | None
    """Fixed number of rows; None: any."""
    weights: str
    """For display: "int4 (blocks of 32)", "int8", "fp16", "fp32"."""
    rounds_together: bool = False
    """Whether hidden states are quantized with one scale for all tokens of a call, so that the
    logits of a token depend on the others."""

    @property
    def n_layer(self) -> int:
        return len({cache.layer for cache in self.caches})

    @property
    def kv_bytes_per_position(self) -> int:
        """Bytes per position of one row, over all layers."""
        size = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
        total = 0
        for cache in self.caches:
            n_values = 1
            for axis, n in enumerate(cache.shape):
                if axis not in (cache.batch_axis, cache.length_axis):
                    n_values *= n or 1
            total += n_values * size[cache.dtype]
        return total
