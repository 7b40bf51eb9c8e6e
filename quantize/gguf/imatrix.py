"""Computes an importance matrix: reads a text, and sums up what every matrix of a model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from spillover.models.gguf_header import read_header
from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.imatrix_file import Imatrix, write_imatrix
from spillover.quantize.gguf.matmul_inputs import MatmulInputs
from spillover.quantize.texts import read_text
from spillover.runtime.backend import Rows, Tokens
from spillover.runtime.llama.batch import LlamaBatch
from spillover.runtime.llama.embedding.plan import is_made_for_embedding
from spillover.runtime.llama.governed_calls import GovernedCalls
from spillover.runtime.llama.library import LOG, lib, start_library
from spillover.runtime.llama.model import LlamaModel

_N_CHUNK = 512
"""Tokens that are read as one text."""
_N_CALL = 128
"""Tokens of one call, which bounds the logits that llama.cpp keeps."""


class ImatrixOrder(Struct, frozen=True, kw_only=True):
    """What to read, and where to write the matrix."""

    source: Path
    target: Path
    text: Path
    n_threads: int


class Calibrated(Struct, frozen=True, kw_only=True):
    """What was read."""

    n_tokens: int
    n_matrices: int


def calibrate(order: ImatrixOrder, progress: Progress) -> Calibrated:
    """Write the order's target. Raises QuantizeError, ModelError, ModelFileError,
    OSError."""
    text = read_text(order.text)
    header = read_header(order.source)
    if is_made_for_embedding(header) and 0 < header.n_ctx_train < _N_CHUNK:  # llama.cpp would abort
        raise QuantizeError(
            f"{order.source} reads {header.n_ctx_train} tokens at most, and an importance matrix "
            f"needs {_N_CHUNK}: choose a type that needs none"
        )
    start_library()
    model = LlamaModel(order.source, n_gpu_layers=0, use_extra_bufts=False)
    inputs = MatmulInputs()
    try:
        tokens = model.tokenize(text, add_special=False, parse_special=True)
        chunks = _chunks(tokens, model.opening)
        context = _context(model, inputs, order.n_threads)
        calls = GovernedCalls(order.n_threads, adapts=True)
        try:
            for number, chunk in enumerate(chunks):
                progress("calibrating", number, len(chunks))
                _read(context, inputs, chunk, calls)
            progress("calibrating", len(chunks), len(chunks))
        finally:
            lib.llama_free(context)
    finally:
        lib.llama_model_free(model.handle)
    if not inputs.sums:
        raise QuantizeError(f"{order.source} multiplies no matrices while it reads a text")
    made = Imatrix(
        sums={name: sums.astype(np.float32) for name, sums in inputs.sums.items()},
        counts={name: counts.astype(np.float32) for name, counts in inputs.counts.items()},
        n_chunks=len(chunks),
        chunk_size=_N_CHUNK,
        datasets=(order.text.name,),
    )
    write_imatrix(order.target, made)
    return Calibrated(n_tokens=sum(map(len, chunks)), n_matrices=len(made.sums))


def _chunks(tokens: Tokens, opening: tuple[int, ...]) -> list[Tokens]:
    """The text in pieces of equal length, as llama.cpp's own tool cuts it: the BOS token, if the
    model wants one, takes the place of each piece's first. A rest counts only where there is
    nothing else."""
    whole = np.array([*opening, *tokens], np.int32)
    pieces = [whole[start : start + _N_CHUNK] for start in range(0, len(whole), _N_CHUNK)]
    if len(pieces) > 1 and len(pieces[-1]) < _N_CHUNK:
        pieces.pop()
    if not pieces or len(pieces[0]) < _N_CALL:
        raise QuantizeError(
            f"the text has only {len(tokens)} tokens: give one with at least {_N_CALL}, better "
            "with some ten thousand"
        )
    for piece in pieces:
        piece[: len(opening)] = opening
    return pieces


def _context(model: LlamaModel, inputs: MatmulInputs, n_threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = _N_CHUNK
    params.n_batch = params.n_ubatch = params.n_outputs_max = _N_CALL
    params.n_threads = params.n_threads_batch = n_threads
    params.offload_kqv = params.op_offload = False  # the callback reads this process's memory
    params.no_perf = True
    params.cb_eval = inputs.callback
    context = lib.llama_init_from_model(model.handle, params)
    if not context:
        raise QuantizeError(
            f"llama.cpp cannot make a context of {_N_CHUNK} tokens: "
            f"{LOG.tail() or 'no reason given'}"
        )
    return context


def _read(context: Any, inputs: MatmulInputs, chunk: Tokens, calls: GovernedCalls) -> None:
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    batch = LlamaBatch(_N_CALL, _N_CHUNK)
    for start in range(0, len(chunk), _N_CALL):
        batch.fill([Rows(0, start, chunk[start : start + _N_CALL], True)])
        batch.ask_from(0)  # or the last layer would only compute one row
        inputs.begin()
        code = calls.run(
            lambda: lib.llama_decode(context, batch.struct),
            lambda n: lib.llama_set_n_threads(context, n, n),
        )
        if inputs.error is not None:
            raise inputs.error
        if code:
            raise QuantizeError(f"llama_decode returned {code}: {LOG.tail() or 'no reason given'}")
