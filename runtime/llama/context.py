"""A llama.cpp context: a KV cache on a model's weights, and the calls that fill it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import (
    N_CHECKED,
    DecodeAborted,
    DecodeFailed,
    KvFull,
    Rows,
    SavedKv,
    saved_kv,
)
from spillover.runtime.errors import ModelError
from spillover.runtime.llama import zero_pages
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.batch import LlamaBatch
from spillover.runtime.llama.library import LOG, lib
from spillover.runtime.llama.model import LlamaModel
from spillover.runtime.options import KvCacheType

_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0, "q4_0": lib.GGML_TYPE_Q4_0}
_FLASH_ATTENTION_AUTO = -1

T = TypeVar("T")


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
    kv_bytes_per_cell: float = 0.0
    """0: unknown."""

    @property
    def n_outputs(self) -> int:
        """Most tokens of one call that may have logits."""
        return min(self.n_seq + N_CHECKED, self.n_batch)


class LlamaContext:
    """Owns its native context, but not the model."""

    def __init__(
        self,
        model: LlamaModel,
        config: LlamaConfig,
        abort_flag: AbortFlag,
        *,
        may_fill_lazily: bool = True,
    ) -> None:
        """*may_fill_lazily* must be False where other threads compute meanwhile, see
        zero_pages.py."""
        can_return = not model.is_on_gpu and zero_pages.CAN_BE_RETURNED
        self.fills_lazily = may_fill_lazily and can_return
        """Whether the KV cache takes memory as tokens are written into it, or has taken it all."""
        self.handle: Any = (
            zero_pages.without_zeros(lambda: _new_context(model, config))
            if self.fills_lazily
            else _new_context(model, config)
        )
        self._abort_flag = abort_flag
        abort_flag.attach(self.handle)
        self._memory: Any = lib.llama_get_memory(self.handle)
        self.n_kv = int(lib.llama_n_ctx(self.handle))
        self._batch = LlamaBatch(config.n_batch, self.n_kv)
        self._scratch_seq = config.n_seq
        self._is_recurrent = bool(
            lib.llama_model_is_recurrent(model.handle) or lib.llama_model_is_hybrid(model.handle)
        )
        self._window = int(lib.llama_model_n_swa(model.handle))
        """Positions that layers with a sliding window see; 0 where all layers see all."""
        n_short = model.n_ctx_short
        is_long = n_short is not None and self.n_kv > n_short
        self.shares_cells = n_short is None
        """Whether a context of any size can continue from its cells. With LongRoPE (Phi-3, MiniCPM)
        a context longer than the one that the model was first trained for turns keys otherwise."""
        place = "GPU" if model.is_on_gpu else "CPU"
        self.layout = f"{config.kv_cache_type}, {place}{', long' if is_long else ''}"

    @property
    def can_be_cut(self) -> bool:
        """Whether a sequence can be cut: a recurrent state cannot."""
        return not self._is_recurrent

    @property
    def can_be_cut_anywhere(self) -> bool:
        """Whether what is left can always be continued: a window may have lost its beginning."""
        return self.can_be_cut and not self._window

    def decode(self, batch: Sequence[Rows]) -> list[int]:
        """Evaluate a batch and return the rows of its outputs. Raises KvFull, DecodeAborted,
        DecodeFailed."""
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
        """Compute with this many threads from the next call on."""
        lib.llama_set_n_threads(self.handle, n_threads, n_threads)

    def keep(self, seq: int, n_tokens: int) -> int:
        """Drop what *seq* has past its first *n_tokens*; return how many it keeps: none where the
        rest cannot be continued."""
        if n_tokens and self._can_continue(seq, n_tokens):
            lib.llama_memory_seq_rm(self._memory, seq, n_tokens, -1)
            return n_tokens
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return 0

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        """Share the first *n_tokens* of *source* with *target*; return how many it has now."""
        if not self._can_continue(source, n_tokens):
            return 0
        lib.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)
        return n_tokens

    def _can_continue(self, seq: int, n_tokens: int) -> bool:
        """Whether *seq* holds everything that the token after its first *n_tokens* attends to.
        Recurrent states only cover the end of the text."""
        n_held = self._end_of(seq)
        if self._is_recurrent or n_tokens >= n_held:
            return n_tokens == n_held
        return self._is_complete(seq, max(n_tokens + 1 - self._window, 0), n_tokens)

    def _is_complete(self, seq: int, start: int, end: int) -> bool:
        """Whether layers with a window have all these positions of *seq*: llama.cpp uses the cells
        that a window has passed again, in any order."""
        if not self._window:
            return True
        n_held = self._end_of(seq)
        n = min(self._window - 1, n_held)  # these are there
        one, all_ = (
            self._of_range(seq, n_held - i, n_held, self._saved_bytes) for i in (1, max(n, 1))
        )
        cell_bytes = (all_ - one) // max(n - 1, 1)
        return all(
            self._of_range(seq, first, last, self._saved_bytes)
            == one + cell_bytes * (last - first - 1)
            for first, last in self._whole_ranges(start, end)
        )

    def _end_of(self, seq: int) -> int:
        """The position after the last one that *seq* holds."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) + 1

    # --- saved states (KvSaver in runtime/backend.py) ----------------------------------------

    saves_parts = True

    @property
    def are_cut(self) -> bool:
        return self.can_be_cut

    def can_save(self, seq: int, start: int, end: int) -> bool:
        """All that it holds, or a part that is complete. A recurrent state, and what a window has
        left, are of the end of the text."""
        is_all = start == 0 and end == self._end_of(seq)
        return is_all or (not self._is_recurrent and self._is_complete(seq, start, end))

    def saved_bytes(self, seq: int, start: int, end: int) -> int:
        if self._is_saved_whole(seq, start, end):
            return self._saved_bytes(seq)
        ranges = self._whole_ranges(start, end)
        return sum(self._of_range(seq, *range_, self._saved_bytes) for range_ in ranges)

    def _saved_bytes(self, seq: int) -> int:
        return int(lib.llama_state_seq_get_size(self.handle, seq))

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        if self._is_saved_whole(seq, start, end):
            return self._save(seq)
        ranges = self._whole_ranges(start, end)
        parts = [self._of_range(seq, *range_, self._save) for range_ in ranges]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _is_saved_whole(self, seq: int, start: int, end: int) -> bool:
        """Whether it is the state of the end of the text, in one piece."""
        return self._is_recurrent or not self._is_complete(seq, start, end)

    def _save(self, seq: int) -> SavedKv:
        state = saved_kv(self._saved_bytes(seq))
        n = lib.llama_state_seq_get_data(self.handle, _bytes_of(state), state.nbytes, seq)
        return state[:n]

    def append(self, seq: int, start: int, end: int, state: SavedKv) -> bool:
        if self._end_of(seq) != start:
            return False
        if self._append(seq, start, state) and self._end_of(seq) == end:
            return True
        lib.llama_memory_seq_rm(self._memory, seq, start, -1)
        return False

    def _append(self, seq: int, start: int, state: SavedKv) -> bool:
        """Add a state at *start*; whether all of it is there."""
        if self._is_recurrent:
            return start == 0 and bool(self._restore(seq, state))
        scratch, at = self._scratch_seq, start
        while len(state):
            n_bytes = self._restore(scratch, state)
            first = int(lib.llama_memory_seq_pos_min(self._memory, scratch))
            end = self._end_of(scratch)
            # What a window has left of a whole text is all that its last position sees.
            is_end = 0 < self._window <= end - first + 1 and n_bytes == len(state)
            follows = bool(n_bytes) and (first == at or (at == 0 and is_end))
            if follows:
                lib.llama_memory_seq_cp(self._memory, scratch, seq, -1, -1)
            lib.llama_memory_seq_rm(self._memory, scratch, -1, -1)
            if not follows:
                return False
            at, state = end, state[n_bytes:]
        return True

    def _restore(self, seq: int, state: SavedKv) -> int:
        """Restore *seq* from *state*; return the bytes used, 0 when there is no room for it."""
        return int(lib.llama_state_seq_set_data(self.handle, _bytes_of(state), state.nbytes, seq))

    def _whole_ranges(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges that llama.cpp saves completely: it omits what a window cannot see from the
        end of a range."""
        width = max(self._window - 1, 1) if self._window else end - start
        return [(first, min(first + width, end)) for first in range(start, end, width)]

    def _of_range(self, seq: int, start: int, end: int, ask: Callable[[int], T]) -> T:
        """The result of *ask* for a sequence that holds only this range of *seq*."""
        scratch = self._scratch_seq
        lib.llama_memory_seq_cp(self._memory, seq, scratch, start, end)
        try:
            return ask(scratch)
        finally:
            lib.llama_memory_seq_rm(self._memory, scratch, -1, -1)

    def close(self) -> None:
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = None


def _new_context(model: LlamaModel, config: LlamaConfig) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = config.n_kv
    params.n_batch = params.n_ubatch = config.n_batch
    # One more than callers use, to separate a part of a sequence from the rest.
    params.n_seq_max = config.n_seq + 1
    # llama.cpp reserves one output per sequence and aborts the process when this is lower.
    params.n_outputs_max = max(config.n_seq + 1, config.n_outputs)
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
            f"{LOG.tail() or 'no reason given'}. Lower n_kv or n_ctx."
        )
    return context


def _bytes_of(array: SavedKv) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
