"""A llama.cpp context that turns tokens into vectors or scores."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import DecodeAborted, DecodeFailed, Rows
from spillover.runtime.embedding.embedder import Vector
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.batch import LlamaBatch
from spillover.runtime.llama.library import LOG, lib
from spillover.runtime.llama.model import LlamaModel

_FLASH_ATTENTION_AUTO = -1


class EmbeddingLayout(Struct, frozen=True, kw_only=True):
    """How a context is laid out."""

    n_cells: int
    """Tokens that it holds, and where inputs are read whole also the most of a call. At least
    *n_seq*, for each of which llama.cpp reserves an output."""
    n_batch: int
    n_seq: int
    n_threads: int
    pooling_type: int
    """One of llama.cpp's; none where every token's vector is wanted."""
    is_whole: bool


class EmbeddingContext:
    """Owns its native context, but not the model. Raises ModelError when there is no memory."""

    def __init__(self, model: LlamaModel, layout: EmbeddingLayout, abort_flag: AbortFlag) -> None:
        self.layout = layout
        self._model = model
        self._handle: Any = _new_context(model, layout)
        self._abort_flag = abort_flag
        abort_flag.attach(self._handle)
        self._memory: Any = lib.llama_get_memory(self._handle)
        n_rows = layout.n_cells if layout.is_whole else layout.n_batch
        self._batch = LlamaBatch(n_rows, layout.n_cells)
        self._has_encoder = bool(lib.llama_model_has_encoder(model.handle))
        is_rank = layout.pooling_type == lib.LLAMA_POOLING_TYPE_RANK
        self._n_values = 1 if is_rank else model.n_embd_out

    def run(self, batch: Sequence[Rows]) -> None:
        """Evaluate *batch*. Raises DecodeAborted, after which it holds nothing of these sequences,
        and DecodeFailed."""
        self._batch.fill(batch)
        self._batch.ask_from(0)
        self._abort_flag.lower()
        run = lib.llama_encode if self._has_encoder else lib.llama_decode
        code = run(self._handle, self._batch.struct)
        if code == 0:
            return
        for rows in batch:
            self.forget(rows.seq)
        if code == 2:
            raise DecodeAborted
        raise DecodeFailed(f"llama.cpp returned {code}: {LOG.tail() or 'no reason given'}")

    def pooled(self, seq: int) -> Vector:
        """The vector of a sequence, whose last token the last call has read."""
        pointer = lib.llama_get_embeddings_seq(self._handle, seq)
        return _copied(pointer, (self._n_values,))

    def rows(self, n_rows: int) -> Vector:
        """The vectors of all tokens of the last call: (n_rows, n_values)."""
        return _copied(lib.llama_get_embeddings(self._handle), (n_rows, self._n_values))

    def forget(self, seq: int) -> None:
        if self._memory:
            lib.llama_memory_seq_rm(self._memory, seq, -1, -1)

    def set_threads(self, n_threads: int) -> None:
        """Compute with this many threads from the next call on."""
        lib.llama_set_n_threads(self._handle, n_threads, n_threads)

    def close(self) -> None:
        if self._handle:
            lib.llama_free(self._handle)
            self._handle = None


def _copied(pointer: Any, shape: tuple[int, ...]) -> Vector:
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    if address is None:
        raise DecodeFailed("llama.cpp has computed no vector")
    row = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.ctypeslib.as_array(row).reshape(shape).copy()


def _new_context(model: LlamaModel, layout: EmbeddingLayout) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = layout.n_cells
    # Tokens that all see each other must be in one batch: "n_ubatch >= n_tokens", or it aborts.
    n_rows = layout.n_cells if layout.is_whole else max(layout.n_batch, layout.n_seq)
    params.n_batch = params.n_ubatch = n_rows
    params.n_seq_max = layout.n_seq
    params.n_threads = params.n_threads_batch = layout.n_threads
    params.flash_attn_type = _FLASH_ATTENTION_AUTO
    params.embeddings = True
    params.pooling_type = layout.pooling_type
    params.kv_unified = True
    params.swa_full = True
    params.no_perf = True
    context = lib.llama_init_from_model(model.handle, params)
    if not context:
        raise ModelError(
            f"there is no memory for vectors of inputs of {layout.n_cells} tokens: "
            f"{LOG.tail() or 'no reason given'}. Send shorter ones, or lower n_ctx."
        )
    return context
