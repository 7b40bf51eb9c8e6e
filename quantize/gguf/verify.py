"""Whether a quantized file still does what its source does."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from spillover.models.gguf_header import read_header
from spillover.quantize.child import Progress
from spillover.quantize.conversion.sample_texts import PROSE
from spillover.quantize.errors import QuantizeError
from spillover.runtime.options import EngineOptions

if TYPE_CHECKING:
    from spillover.runtime.backend import Backend

_N_CTX = 1_024
_N_WRITTEN = 16
"""Tokens that the new file has to write."""
_MOST_DIVERGENCE = ((7.0, 0.1), (5.5, 0.5), (4.0, 1.0), (3.0, 3.0), (0.0, 8.0))
"""By bits per weight: nats beyond which the new file is broken rather than coarse. Small models
lose most: one of 5.8 million parameters 0.06 with Q4_K_M."""


class VerifyOrder(Struct, frozen=True, kw_only=True):
    """Two files to compare."""

    source: Path
    target: Path
    n_threads: int


class Verdict(Struct, frozen=True, kw_only=True):
    """How far the target is from the source."""

    divergence: float
    """Mean Kullback-Leibler divergence in nats, on a built-in text."""
    n_positions: int


def most_divergence(bits_per_weight: float) -> float:
    """The nats that a sound file stays below."""
    return next(most for bits, most in _MOST_DIVERGENCE if bits_per_weight >= bits)


def verify(order: VerifyOrder, progress: Progress) -> Verdict | None:
    """Load both files, let the target write, and compare their logits; None for models that write
    nothing, which are only loaded. Raises QuantizeError, ModelError."""
    from spillover.quantize.conversion.fidelity import logits_divergence  # slow
    from spillover.runtime.llama.embedding.plan import is_made_for_embedding
    from spillover.runtime.llama.opening.opening import open_any_gguf, open_gguf

    progress("checking", 0, 2)
    options = EngineOptions(
        n_ctx=_N_CTX,
        n_kv=_N_CTX,
        n_parallel=1,
        n_prefix_cached=0,
        n_threads=order.n_threads,
        n_gpu_layers=0,
        second_layout="off",
        use_extra_bufts=False,
    )
    if is_made_for_embedding(read_header(order.target)):
        open_any_gguf(order.target, options)
        return None
    with closing(open_gguf(order.target, options).backend) as target:
        _write(target)
        progress("checking", 1, 2)
        with closing(open_gguf(order.source, options).backend) as source:
            divergence, n_positions = logits_divergence(source, target)
    return Verdict(divergence=divergence, n_positions=n_positions)


def _write(backend: Backend) -> None:
    """Continue a text by the likeliest tokens, and forget it."""
    import numpy as np  # slow

    from spillover.runtime.backend import Rows

    tokens = backend.tokenize(PROSE, add_special=True, parse_special=False)[:_N_WRITTEN]
    start = 0
    for _ in range(_N_WRITTEN):
        backend.decode([Rows(0, start, tokens, True)])
        start += len(tokens)
        logits = backend.logits(0)
        if not np.isfinite(logits).all():
            raise QuantizeError(
                "the new file computes no finite numbers: its type is too coarse for this model, "
                "or the source is damaged"
            )
        tokens = np.array([logits.argmax()], np.int32)
    backend.keep(0, 0)
