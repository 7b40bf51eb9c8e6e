"""Compares an exported model with what it was made of: llama.cpp or ONNX Runtime runs the new one,
and the source is run layer by layer with its own weights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from spillover.quantize.child import Child, Progress
from spillover.quantize.verification import N_CTX, Verdict, judge, most_divergence, write_some
from spillover.runtime.machine.device import available_memory
from spillover.runtime.options import EngineOptions

if TYPE_CHECKING:
    from spillover.runtime.backend import Backend

_ADVICE = "the export is wrong, or the model suffers much from so few bits; --no-check keeps it"
_PACKED = 2
"""Memory of a loaded ONNX model, as a multiple of its size."""
_BESIDE_BYTES = 512 << 20
"""For two libraries, and for one layer of the source."""
_OPTIONS = EngineOptions(
    n_parallel=1,
    n_prefix_cached=0,
    n_gpu_layers=0,
    execution_provider="cpu",
    second_layout="off",
    use_extra_bufts=False,
    adapt_threads=False,
)


class ExportOrder(Struct, frozen=True, kw_only=True):
    """A new model, and the folder or file that it was made of."""

    source: Path
    target: Path
    n_ctx: int
    """The longest context of the new one, which may decide on rotary positions."""


def check_export(
    order: ExportOrder, bits_per_weight: float, progress: Progress, *, scratch: Path | None = None
) -> Verdict | None:
    """Let the new model write, and compare it, in a process of its own; None if memory is short.
    *scratch*: see Child.call(). Raises QuantizeError for one that is broken."""
    if available_memory() < _needed_bytes(order.target):
        return None
    with Child() as child:
        verdict = child.call(compare, order, progress, scratch=scratch)
    judge(verdict, most_divergence(bits_per_weight), _ADVICE)
    return verdict


def _needed_bytes(target: Path) -> int:
    """llama.cpp maps the weights; ONNX Runtime packs them anew."""
    if not target.is_dir():
        return _BESIDE_BYTES
    n_bytes = sum(file.stat().st_size for file in target.iterdir())
    return _PACKED * n_bytes + _BESIDE_BYTES


def compare(order: ExportOrder, progress: Progress) -> Verdict:
    """The child's part. Raises QuantizeError, ModelError."""
    from spillover.quantize.conversion.fidelity import mean_divergence, read_slices, sample
    from spillover.quantize.onnx_export.calibrated.exact_logits import exact_logits
    from spillover.quantize.onnx_export.export import open_source

    progress("checking", 0, 2)
    with closing(_opened(order)) as backend:
        write_some(backend)
        tokens = sample(backend)
        found = read_slices(backend, tokens)
    progress("checking", 1, 2)
    ends = [end - 1 for end, _ in found]
    wanted = exact_logits(open_source(order.source), tokens, ends, order.n_ctx)
    progress("checking", 2, 2)
    pairs = [(exact, logits) for exact, (_, logits) in zip(wanted, found, strict=True)]
    return Verdict(divergence=mean_divergence(pairs), n_positions=len(pairs))


def _opened(order: ExportOrder) -> Backend:
    from msgspec.structs import replace

    n_ctx = min(N_CTX, order.n_ctx)
    options = replace(_OPTIONS, n_ctx=n_ctx, n_kv=n_ctx)
    if order.target.is_dir():
        from spillover.runtime.onnx.opening import open_onnx

        return open_onnx(order.target, options).backend
    from spillover.runtime.llama.opening.opening import open_gguf

    return open_gguf(order.target, options).backend
