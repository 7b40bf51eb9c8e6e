"""Reads chunks of text with llama.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.backend import N_BATCH, DecodeFailed, Logits, Rows, Tokens
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.batch import LlamaBatch
from spillover.runtime.llama.embedding.plan import is_made_for_embedding
from spillover.runtime.llama.library import LOG, lib, start_library
from spillover.runtime.llama.model import LlamaModel
from spillover.runtime.machine.device import default_threads

_ALL_LAYERS = -1


class LlamaReader:
    """See readers.py. The context is llama-perplexity's: an f16 KV cache, batches of 512."""

    def __init__(self, path: Path, n_ctx: int) -> None:
        try:
            header = read_header(path)
        except ModelFileError as error:
            raise ModelError(str(error)) from error
        if is_made_for_embedding(header):
            raise ModelError(f"{path} is for embeddings: it predicts no tokens to compare")
        start_library()
        self.notes: tuple[str, ...] = ()
        self.n_ctx = min(n_ctx, header.n_ctx_train or n_ctx)
        self._model = LlamaModel(path, n_gpu_layers=_ALL_LAYERS, use_extra_bufts=True)
        self.n_vocab = self._model.n_vocab
        self._batch = LlamaBatch(min(N_BATCH, self.n_ctx), self.n_ctx)
        try:
            self._context = _new_context(self._model, self.n_ctx, self._batch.n_rows)
        except BaseException:
            self._model.close()
            raise

    def tokenize(self, text: str) -> Tokens:
        return self._model.tokenize(text, add_special=True, parse_special=False)

    def read(self, tokens: Tokens, first: int) -> Logits:
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        logits = np.empty((len(tokens) - first, self.n_vocab), np.float32)
        for start in range(0, len(tokens), self._batch.n_rows):
            part = tokens[start : start + self._batch.n_rows]
            self._batch.fill([Rows(0, start, part, False)])
            skipped = min(max(first - start, 0), len(part))
            self._batch.ask_from(skipped)
            code = lib.llama_decode(self._context, self._batch.struct)
            if code:
                raise DecodeFailed(
                    f"llama_decode returned {code}: {LOG.tail() or 'no reason given'}"
                )
            if skipped < len(part):
                place = start + skipped - first
                n_new = len(part) - skipped
                logits[place : place + n_new] = self._outputs(n_new)
        return logits

    def _outputs(self, n: int) -> Logits:
        address = ctypes.cast(lib.llama_get_logits(self._context), ctypes.c_void_p).value
        assert address is not None
        rows = (ctypes.c_float * (n * self.n_vocab)).from_address(address)
        return np.ctypeslib.as_array(rows).reshape(n, self.n_vocab)

    def close(self) -> None:
        lib.llama_free(self._context)
        self._model.close()


def _new_context(model: LlamaModel, n_ctx: int, n_batch: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = n_batch
    params.n_outputs_max = n_batch
    params.n_threads = params.n_threads_batch = default_threads()
    params.no_perf = True
    context = lib.llama_init_from_model(model.handle, params)
    if not context:
        raise ModelError(
            f"llama.cpp cannot make a context of {n_ctx} tokens: {LOG.tail() or 'no reason given'}"
        )
    return context
