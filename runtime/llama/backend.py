"""The Backend on llama.cpp: one model, one context, a KV cache shared by all sequences."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from spillover.runtime.backend import (
    BackendInfo,
    Constraint,
    KvSaver,
    Logits,
    Rows,
    Sampler,
    Tokens,
)
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.constrained import ConstrainedSampler
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.draft_model import LlamaDraftModel
from spillover.runtime.llama.library import lib, start_library, uses_gpu
from spillover.runtime.llama.model import LlamaModel, OnProgress
from spillover.runtime.llama.prefill.context import PrefillContext
from spillover.runtime.llama.prefill.contexts import PrefillContexts
from spillover.runtime.llama.prefill.prompt_reader import LlamaPromptReader
from spillover.runtime.llama.sampler import ChainSampler, Free, GreedySampler
from spillover.runtime.llama.thread_governor import ThreadGovernor
from spillover.runtime.machine.device import OurCores, available_memory
from spillover.runtime.sampling import Sampling

_PAUSE_S = 0.5
"""After this long without a call, the load of the machine is measured again."""


class LlamaBackend:
    """See runtime/backend.py for the contract."""

    def __init__(
        self,
        path: Path,
        config: LlamaConfig,
        free_bytes: Callable[[], int] = available_memory,
        on_progress: OnProgress | None = None,
    ) -> None:
        start_library()
        self._config = config
        self._governor = self._new_governor()  # looks at the cores while the model is loaded
        self._abort_flag = AbortFlag()
        self._model = LlamaModel(
            path,
            n_gpu_layers=config.n_gpu_layers,
            use_extra_bufts=config.use_extra_bufts,
            on_progress=on_progress,
        )
        try:
            self._main = LlamaContext(self._model, config, self._abort_flag)
        except BaseException:
            self._model.close()
            raise
        self._prefills = PrefillContexts(path, self._model, config, free_bytes)
        self.reader = self._new_reader()
        self.draft_model: LlamaDraftModel | None = None
        self._draft_cell_bytes = 0.0
        self._warnings: tuple[str, ...] = ()
        self._n_threads = config.n_threads
        self._ended = float("-inf")
        self._answered: LlamaContext | PrefillContext = self._main
        """The context of the last call, which holds its outputs."""
        self._outputs: list[int] = []
        self._rows_seen: dict[int, Logits] = {}
        self.info = self._describe()

    def _new_governor(self) -> ThreadGovernor | None:
        """Where llama.cpp's waiting threads are known to spin, so that missing CPU time was taken
        by other programs: not on a GPU, and untested on macOS and Windows."""
        is_asked = self._config.adapt_threads and self._config.n_threads > 1
        if not is_asked or self.uses_gpu or sys.platform != "linux":
            return None
        try:
            return ThreadGovernor(self._config.n_threads, OurCores())
        except OSError:  # Android does not show how busy its cores are
            return None

    def limit_threads(self, n_most: int, n_first: int | None = None) -> None:
        """Compute with at most *n_most* threads; where they are governed, begin with *n_first*."""
        self._config = replace(self._config, n_threads=n_most)
        n_threads = n_most
        if self._governor is not None:
            n_threads = n_first or n_most
            self._governor.limit(n_most, n_threads)
        self._use_threads(n_threads)
        self.info = self._describe()

    def save_power(self, *, is_on: bool) -> None:
        """See Backend."""
        n_all = self._config.n_threads
        n_most = -(-n_all // 2) if is_on else n_all
        n_threads = n_most
        if self._governor is not None:
            n_threads = min(self._governor.n_threads, n_most)  # it tries more by itself
            self._governor.limit(n_most, n_threads)
        self._use_threads(n_threads)

    @property
    def model(self) -> LlamaModel:
        """Its weights and vocabulary, for others that compute with them."""
        return self._model

    @property
    def can_read_apart(self) -> bool:
        """Whether a second layout of the weights could help."""
        repacks = self._config.use_extra_bufts and not self.uses_gpu
        return repacks and self._main.can_be_cut and self._main.shares_cells

    @property
    def reads_apart(self) -> bool:
        return self._prefills.has_second_layout

    def read_prompts_apart(self) -> None:
        """Read prompts with a second layout of the weights. Raises ModelError when it cannot be
        loaded."""
        self._prefills.load_second_layout()
        self.info = self._describe()

    def read_prompts_here(self) -> None:
        """Drop the second layout."""
        self._prefills.drop_second_layout()
        self.info = self._describe()

    def load_draft_model(self, path: Path, kv_bytes_per_cell: float) -> None:
        """Have the model at *path* propose tokens; where it cannot, warn of it."""
        try:
            self.draft_model = LlamaDraftModel(path, self._model, self._config)
            self.draft_model.set_threads(self._n_threads)
            self._draft_cell_bytes = kv_bytes_per_cell
        except ModelError as error:
            self._warnings = (str(error),)
        self.info = self._describe()

    def _new_reader(self) -> LlamaPromptReader | None:
        """Where another context can have what is in the main one, and computes on the same cores;
        how a GPU divides its time between two is unmeasured."""
        if not self._main.can_be_cut or not self._main.shares_cells or self.uses_gpu:
            return None
        return LlamaPromptReader(
            self._prefills.for_thread,
            self._main,
            self._answer,
            lambda: self._governor is None or self._governor.has_all,
        )

    @property
    def uses_gpu(self) -> bool:
        """Whether layers of the model are on a GPU."""
        return uses_gpu(self._config.n_gpu_layers)

    def _describe(self) -> BackendInfo:
        model, handle = self._model, self._model.handle
        cell_bytes = self._config.kv_bytes_per_cell + self._draft_cell_bytes
        return BackendInfo(
            architecture=model.metadata("general.architecture"),
            description=model.description(),
            n_params=model.n_params,
            size_bytes=model.n_bytes,
            draft_model_bytes=0 if self.draft_model is None else self.draft_model.n_bytes,
            n_vocab=model.n_vocab,
            n_ctx_train=lib.llama_model_n_ctx_train(handle),
            n_kv=self._main.n_kv,
            n_seq=self._config.n_seq,
            n_batch=self._config.n_batch,
            n_outputs=self._config.n_outputs,
            n_threads=self._config.n_threads,
            chat_template=model.chat_template,
            bos_text=model.special_text(lib.llama_vocab_bos(model.vocab)),
            eos_text=model.special_text(lib.llama_vocab_eos(model.vocab)),
            add_bos=lib.llama_vocab_get_add_bos(model.vocab),
            use_extra_bufts=self._config.use_extra_bufts,
            fim=model.fim,
            library=f"llama-cpp-python {version('llama-cpp-python')}",
            device=self._device,
            kv_bytes_per_cell=cell_bytes * self._main.fills_lazily,
            can_check=self._main.can_be_cut_anywhere,
            warnings=self._warnings,
        )

    @property
    def _device(self) -> str:
        if self.uses_gpu:
            return "GPU"
        return "CPU, prompts by a second layout of the weights" if self.reads_apart else "CPU"

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
        shows_distribution: bool = False,
    ) -> Sampler:
        if sampling.is_plain_greedy and not ignore_eos:
            free: Free = GreedySampler(self.logits)
        else:
            free = ChainSampler(
                self._model,
                self._row_of,
                sampling,
                seed,
                ignore_eos=ignore_eos,
                n_ctx=self.info.n_kv,
                logits=self.logits if shows_distribution else None,
            )
        if constraint is None:
            return free
        return ConstrainedSampler(free, self.logits, constraint)

    def decode(self, batch: Sequence[Rows]) -> None:
        self._main.set_threads(self._n_main_threads)
        if self._governor is None or self._is_reading:
            # The CPU time of two calls at once says nothing about either. Their threads, more than
            # the cores, do not spin, so that no other program can hold them up a hundredfold.
            self._decode(batch)
            return
        started, used_s = time.perf_counter(), time.process_time()
        if started - self._ended > _PAUSE_S:
            self._use_threads(self._governor.rest())
        self._decode(batch)
        self._ended = time.perf_counter()
        cpu_s = time.process_time() - used_s
        self._use_threads(self._governor.observe(self._ended - started, cpu_s))

    def _use_threads(self, n_threads: int) -> None:
        if n_threads == self._n_threads:
            return
        self._n_threads = n_threads
        self._prefills.set_threads(n_threads)
        if self.draft_model is not None:
            self.draft_model.set_threads(n_threads)

    def _decode(self, batch: Sequence[Rows]) -> None:
        prefill = None if self._is_reading else self._prefills.for_call(batch)
        if prefill is not None:
            outputs = prefill.read(batch, self._main)
            if outputs is not None:
                self._answer(prefill, outputs)
                return
        self._answer(self._main, self._main.decode(batch))

    @property
    def _n_main_threads(self) -> int:
        """Half of the threads while a prompt is read beside. Where two teams have a thread for each
        core, each waits for the other at every operation."""
        return -(-self._n_threads // 2) if self._is_reading else self._n_threads

    @property
    def _is_reading(self) -> bool:
        return self.reader is not None and self.reader.is_busy

    def _answer(self, context: LlamaContext | PrefillContext, outputs: list[int]) -> None:
        """Note which context has the outputs of the last call, and their rows there."""
        if not (context is self._answered is self._main):
            self._rows_seen.clear()  # other contexts come and go
        self._answered, self._outputs = context, outputs

    def _row_of(self, output: int) -> tuple[Any, int]:
        """The native context that holds an output of the last call, and its row there."""
        return self._answered.handle, self._outputs[output]

    def logits(self, output: int) -> Logits:
        pointer = lib.llama_get_logits_ith(*self._row_of(output))
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        assert address is not None
        view = self._rows_seen.get(address)
        if view is None:
            row = (ctypes.c_float * self.info.n_vocab).from_address(address)
            view = self._rows_seen[address] = np.ctypeslib.as_array(row)
        return view

    def keep(self, seq: int, n_tokens: int) -> int:
        self._prefills.keep(seq, n_tokens)
        if self.draft_model is not None:
            self.draft_model.keep(seq, n_tokens)
        return self._main.keep(seq, n_tokens)

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        return self._main.copy(source, target, n_tokens)

    @property
    def saver(self) -> KvSaver:
        return self._main

    def abort(self) -> None:
        self._abort_flag.raise_()
        if self.draft_model is not None:
            self.draft_model.abort()
        if not self._is_reading:
            self._prefills.abort()

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
        if self.draft_model is not None:
            self.draft_model.close()
        self._prefills.close()
        self._main.close()
        self._model.close()
