"""The Backend on llama.cpp: one model, one context, a KV cache shared by all sequences."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from msgspec import Struct

from spillover.runtime.backend import (
    BackendInfo,
    Constraint,
    DecodeAborted,
    DecodeFailed,
    KvFull,
    Logits,
    Rows,
    Sampler,
    SavedKv,
    Tokens,
)
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.batch import LlamaBatch
from spillover.runtime.llama.constrained import ConstrainedSampler
from spillover.runtime.llama.library import LOG, start_library
from spillover.runtime.llama.model import LlamaModel
from spillover.runtime.llama.sampler import ChainSampler, Free, GreedySampler
from spillover.runtime.options import KvCacheType
from spillover.runtime.sampling import Sampling

_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0, "q4_0": lib.GGML_TYPE_Q4_0}
_FLASH_ATTENTION_AUTO = -1


class LlamaConfig(Struct, frozen=True, kw_only=True):
    """How the context is laid out; every number is decided by the caller."""

    n_kv: int
    n_seq: int
    n_batch: int
    n_threads: int
    n_gpu_layers: int
    kv_cache_type: KvCacheType
    use_extra_bufts: bool


class LlamaBackend:
    """See runtime/backend.py for the contract."""

    def __init__(self, path: Path, config: LlamaConfig) -> None:
        start_library()
        self._config = config
        self._abort_flag = AbortFlag()
        self._model = LlamaModel(
            path, n_gpu_layers=config.n_gpu_layers, use_extra_bufts=config.use_extra_bufts
        )
        try:
            self._context = self._new_context()
        except BaseException:
            self._model.close()
            raise
        self._memory: Any = lib.llama_get_memory(self._context)
        self.info = self._describe()
        self._batch = LlamaBatch(config.n_batch, self.info.n_kv)
        self._outputs: list[int] = []
        handle = self._model.handle
        self._is_recurrent = bool(
            lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle)
        )
        self._rows_seen: dict[int, Logits] = {}

    def _new_context(self) -> Any:
        params = lib.llama_context_default_params()
        config = self._config
        params.n_ctx = config.n_kv
        params.n_batch = params.n_ubatch = config.n_batch
        params.n_seq_max = config.n_seq
        # llama.cpp reserves one output per sequence and aborts the process when this is lower.
        params.n_outputs_max = config.n_seq
        params.n_threads = params.n_threads_batch = config.n_threads
        params.flash_attn_type = _FLASH_ATTENTION_AUTO
        params.type_k = params.type_v = _KV_TYPES[config.kv_cache_type]
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        context = lib.llama_init_from_model(self._model.handle, params)
        if not context:
            raise ModelError(
                f"llama.cpp cannot make a context of {config.n_kv} KV cells: "
                f"{LOG.tail() or 'it gives no reason'}. Lower n_kv or n_ctx."
            )
        self._abort_flag.attach(context)
        return context

    @property
    def _uses_gpu(self) -> bool:
        return self._config.n_gpu_layers != 0 and bool(lib.llama_supports_gpu_offload())

    def _describe(self) -> BackendInfo:
        model, handle = self._model, self._model.handle
        return BackendInfo(
            architecture=model.metadata("general.architecture"),
            description=model.description(),
            n_params=lib.llama_model_n_params(handle),
            size_bytes=lib.llama_model_size(handle),
            n_vocab=model.n_vocab,
            n_ctx_train=lib.llama_model_n_ctx_train(handle),
            n_kv=lib.llama_n_ctx(self._context),
            n_seq=self._config.n_seq,
            n_batch=self._config.n_batch,
            n_outputs=self._config.n_seq,
            n_threads=self._config.n_threads,
            chat_template=model.chat_template,
            bos_text=model.special_text(lib.llama_vocab_bos(model.vocab)),
            eos_text=model.special_text(lib.llama_vocab_eos(model.vocab)),
            add_bos=lib.llama_vocab_get_add_bos(model.vocab),
            use_extra_bufts=self._config.use_extra_bufts,
            fim=model.fim,
            library=f"llama-cpp-python {version('llama-cpp-python')}",
            device="GPU" if self._uses_gpu else "CPU",
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def token_bytes(self, token: int) -> bytes:
        return self._model.token_bytes(token)

    def control_text(self, token: int) -> str:
        return "" if self._model.token_bytes(token) else self._model.special_text(token)

    def is_eog(self, token: int) -> bool:
        return self._model.is_eog(token)

    def sampler(
        self,
        sampling: Sampling,
        seed: int,
        *,
        ignore_eos: bool,
        constraint: Constraint | None = None,
    ) -> Sampler:
        if sampling.is_plain_greedy and not ignore_eos:
            free: Free = GreedySampler(self.logits)
        else:
            free = ChainSampler(
                self._model,
                self._context,
                self._outputs.__getitem__,
                sampling,
                seed,
                ignore_eos=ignore_eos,
                n_ctx=self.info.n_kv,
            )
        if constraint is None:
            return free
        return ConstrainedSampler(free, self.logits, constraint)

    def decode(self, batch: Sequence[Rows]) -> None:
        self._outputs[:] = self._batch.fill(batch)
        self._abort_flag.lower()
        code = lib.llama_decode(self._context, self._batch.struct)
        if code == 0:
            return
        if code == 1:
            raise KvFull
        if code == 2:
            raise DecodeAborted
        raise DecodeFailed(f"llama_decode returned {code}: {LOG.tail() or 'no reason given'}")

    def logits(self, output: int) -> Logits:
        pointer = lib.llama_get_logits_ith(self._context, self._outputs[output])
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        assert address is not None
        view = self._rows_seen.get(address)
        if view is None:
            row = (ctypes.c_float * self.info.n_vocab).from_address(address)
            view = self._rows_seen[address] = np.ctypeslib.as_array(row)
        return view

    def keep(self, seq: int, n_tokens: int) -> int:
        if lib.llama_memory_seq_rm(self._memory, seq, n_tokens, -1):
            return n_tokens
        # Recurrent states cannot be wound back to a position in the middle.
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return 0

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        if (
            self._is_recurrent
            and lib.llama_memory_seq_pos_max(self._memory, source) != n_tokens - 1
        ):
            return 0
        lib.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)
        return n_tokens

    def saved_bytes(self, seq: int) -> int | None:
        return int(lib.llama_state_seq_get_size(self._context, seq))

    def save(self, seq: int) -> SavedKv:
        state = np.empty(lib.llama_state_seq_get_size(self._context, seq), dtype=np.uint8)
        n = lib.llama_state_seq_get_data(self._context, _bytes_of(state), state.nbytes, seq)
        return state[:n]

    def restore(self, seq: int, state: SavedKv) -> bool:
        n = lib.llama_state_seq_set_data(self._context, _bytes_of(state), state.nbytes, seq)
        return bool(n)

    def abort(self) -> None:
        self._abort_flag.raise_()

    def close(self) -> None:
        if self._context:
            lib.llama_free(self._context)
            self._context = None
        self._model.close()


def _bytes_of(array: SavedKv) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
