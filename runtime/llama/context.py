"""A llama.cpp context: a KV cache on a model's weights, and the calls that fill it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from msgspec import Struct

from spillover.runtime.backend import DecodeAborted, DecodeFailed, KvFull, Rows, SavedKv
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.batch import LlamaBatch
from spillover.runtime.llama.library import LOG
from spillover.runtime.llama.model import LlamaModel
from spillover.runtime.options import KvCacheType

_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0, "q4_0": lib.GGML_TYPE_Q4_0}
_FLASH_ATTENTION_AUTO = -1


class LlamaConfig(Struct, frozen=True, kw_only=True):
    """How a context is laid out; every number is decided by the caller."""

    n_kv: int
    n_seq: int
    n_batch: int
    n_threads: int
    n_gpu_layers: int
    kv_cache_type: KvCacheType
    use_extra_bufts: bool
    adapt_threads: bool = True


class LlamaContext:
    """Owns its native context; the model is the caller's."""

    def __init__(self, model: LlamaModel, config: LlamaConfig, abort_flag: AbortFlag) -> None:
        self.handle: Any = _new_context(model, config)
        self._abort_flag = abort_flag
        abort_flag.attach(self.handle)
        self._memory: Any = lib.llama_get_memory(self.handle)
        self.n_kv = int(lib.llama_n_ctx(self.handle))
        self._batch = LlamaBatch(config.n_batch, self.n_kv)
        self._scratch_seq = config.n_seq
        self._is_recurrent = bool(
            lib.llama_model_is_recurrent(model.handle) or lib.llama_model_is_hybrid(model.handle)
        )

    @property
    def can_be_cut(self) -> bool:
        """Whether a part of a sequence can be told from the rest: not so in a recurrent state."""
        return not self._is_recurrent

    def decode(self, batch: Sequence[Rows]) -> list[int]:
        """Evaluate a batch; its outputs' rows. Raises KvFull, DecodeAborted, DecodeFailed."""
        outputs = self._batch.fill(batch)
        self._abort_flag.lower()
        code = lib.llama_decode(self.handle, self._batch.struct)
        if code == 0:
            return outputs
        if code == 1:
            raise KvFull
        if code == 2:
            raise DecodeAborted
        raise DecodeFailed(f"llama_decode returned {code}: {LOG.tail() or 'no reason given'}")

    def set_threads(self, n_threads: int) -> None:
        """Compute with so many from the next call on."""
        lib.llama_set_n_threads(self.handle, n_threads, n_threads)

    def keep(self, seq: int, n_tokens: int) -> int:
        """Drop what *seq* has past its first *n_tokens*; how many it keeps."""
        if lib.llama_memory_seq_rm(self._memory, seq, n_tokens, -1):
            return n_tokens
        # Recurrent states cannot be wound back to a position in the middle.
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return 0

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        """Share the first *n_tokens* of *source* with *target*; how many it has now."""
        if (
            self._is_recurrent
            and lib.llama_memory_seq_pos_max(self._memory, source) != n_tokens - 1
        ):
            return 0
        lib.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)
        return n_tokens

    def saved_bytes(self, seq: int) -> int:
        return int(lib.llama_state_seq_get_size(self.handle, seq))

    def save(self, seq: int) -> SavedKv:
        """A copy of what the KV cache holds of *seq*."""
        state = np.empty(self.saved_bytes(seq), dtype=np.uint8)
        n = lib.llama_state_seq_get_data(self.handle, _bytes_of(state), state.nbytes, seq)
        return state[:n]

    def restore(self, seq: int, state: SavedKv) -> bool:
        """Give the empty *seq* a saved state; False when there is no room for it."""
        n = lib.llama_state_seq_set_data(self.handle, _bytes_of(state), state.nbytes, seq)
        return bool(n)

    def save_part(self, seq: int, start: int, end: int) -> SavedKv:
        """A copy of the positions from *start* to before *end* of *seq*."""
        scratch = self._scratch_seq
        lib.llama_memory_seq_cp(self._memory, seq, scratch, start, end)
        try:
            return self.save(scratch)
        finally:
            lib.llama_memory_seq_rm(self._memory, scratch, -1, -1)

    def append_part(self, seq: int, start: int, end: int, part: SavedKv) -> bool:
        """Add positions that save_part() gave to *seq*; False when there is no room for them."""
        scratch = self._scratch_seq
        if not self.restore(scratch, part):
            return False
        lib.llama_memory_seq_cp(self._memory, scratch, seq, start, end)
        lib.llama_memory_seq_rm(self._memory, scratch, -1, -1)
        return True

    def close(self) -> None:
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = None


def _new_context(model: LlamaModel, config: LlamaConfig) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = config.n_kv
    params.n_batch = params.n_ubatch = config.n_batch
    # One more than are given out, to tell a part of a sequence from the rest.
    params.n_seq_max = config.n_seq + 1
    # llama.cpp reserves one output per sequence and aborts the process when this is lower.
    params.n_outputs_max = config.n_seq + 1
    params.n_threads = params.n_threads_batch = config.n_threads
    params.flash_attn_type = _FLASH_ATTENTION_AUTO
    params.type_k = params.type_v = _KV_TYPES[config.kv_cache_type]
    params.kv_unified = True
    params.swa_full = True
    params.no_perf = True
    context = lib.llama_init_from_model(model.handle, params)
    if not context:
        raise ModelError(
            f"llama.cpp cannot make a context of {config.n_kv} KV cells: "
            f"{LOG.tail() or 'it gives no reason'}. Lower n_kv or n_ctx."
        )
    return context


def _bytes_of(array: SavedKv) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
