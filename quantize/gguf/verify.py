"""Whether a quantized file still does what its source does."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from msgspec import Struct

from spillover.models.gguf_header import read_header
from spillover.quantize.child import Progress
from spillover.quantize.verification import N_CTX, Verdict, write_some
from spillover.runtime.options import EngineOptions


class VerifyOrder(Struct, frozen=True, kw_only=True):
    """Two files to compare."""

    source: Path
    target: Path
    n_threads: int


def verify(order: VerifyOrder, progress: Progress) -> Verdict | None:
    """Load both files, let the target write, and compare their logits; None for models that write
    nothing, which are only loaded. Raises QuantizeError, ModelError, ModelFileError."""
    from spillover.quantize.conversion.fidelity import logits_divergence  # slow
    from spillover.runtime.llama.embedding.plan import is_made_for_embedding
    from spillover.runtime.llama.opening.opening import open_any_gguf, open_gguf

    progress("checking", 0, 2)
    header = read_header(order.target)
    is_for_embedding = is_made_for_embedding(header)
    # Models for embeddings have no more positions than they were trained for.
    n_ctx = min(N_CTX, header.n_ctx_train or N_CTX) if is_for_embedding else N_CTX
    options = EngineOptions(
        n_ctx=n_ctx,
        n_kv=n_ctx,
        n_parallel=1,
        n_prefix_cached=0,
        n_threads=order.n_threads,
        n_gpu_layers=0,
        second_layout="off",
        use_extra_bufts=False,
    )
    if is_for_embedding:
        open_any_gguf(order.target, options)
        return None
    with closing(open_gguf(order.target, options).backend) as target:
        write_some(target)
        progress("checking", 1, 2)
        with closing(open_gguf(order.source, options).backend) as source:
            divergence, n_positions = logits_divergence(source, target)
    return Verdict(divergence=divergence, n_positions=n_positions)
