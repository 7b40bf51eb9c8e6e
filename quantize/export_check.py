"""Compares an exported model with what it was made of: llama.cpp maps the new one, or ONNX Runtime
runs it part by part, and the source is run layer by layer with its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from spillover.quantize.child import Child, Progress
from spillover.quantize.verification import (
    N_CTX,
    Verdict,
    check_finite,
    judge,
    most_divergence,
    write_by_parts,
    write_some,
)
from spillover.runtime.machine.device import available_memory
from spillover.runtime.options import EngineOptions

if TYPE_CHECKING:
    from spillover.runtime.backend import Logits, Tokens

    _Read: TypeAlias = tuple[Tokens, Sequence[int], Sequence[Logits]]
    """Tokens, some ends among them, and the logits (n_vocab,) at each."""

_ADVICE = "the export is wrong, or the model suffers much from so few bits; --no-check keeps it"
_PACKED = 2
"""Memory of a part of an ONNX model, as a multiple of its size."""
_BESIDE_BYTES = 512 << 20
"""For two libraries, and for one layer of the source."""
_OPTIONS = EngineOptions(
    n_parallel=1,
    n_prefix_cached=0,
    n_gpu_layers=0,
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
    """Run the new model, and compare it, in a process of its own; None if memory is short.
    *scratch*: see Child.call(). Raises QuantizeError for one that is broken."""
    if available_memory() < _BESIDE_BYTES:
        return None
    with Child() as child:
        verdict = child.call(compare, order, progress, scratch=scratch)
    judge(verdict, most_divergence(bits_per_weight), _ADVICE)
    return verdict


def compare(order: ExportOrder, progress: Progress) -> Verdict | None:
    """The child's part. Raises QuantizeError, ModelError."""
    from spillover.quantize.conversion.fidelity import mean_divergence
    from spillover.quantize.onnx_export.calibrated.exact_logits import exact_logits
    from spillover.quantize.onnx_export.export import open_source

    progress("checking", 0, 2)
    read = _read_onnx(order) if order.target.is_dir() else _read_gguf(order)
    if read is None:
        return None
    progress("checking", 1, 2)
    tokens, ends, found = read
    wanted = exact_logits(open_source(order.source), tokens, [end - 1 for end in ends], order.n_ctx)
    progress("checking", 2, 2)
    divergence = mean_divergence(list(zip(wanted, found, strict=True)))
    return Verdict(divergence=divergence, n_positions=len(found))


def _read_gguf(order: ExportOrder) -> _Read:
    """Let the new file write, and read a text."""
    from spillover.quantize.conversion.fidelity import read_slices, sample
    from spillover.runtime.llama.opening.opening import open_gguf

    n_ctx = min(N_CTX, order.n_ctx)
    options = replace(_OPTIONS, n_ctx=n_ctx, n_kv=n_ctx)
    with closing(open_gguf(order.target, options).backend) as backend:
        write_some(backend)
        tokens = sample(backend, backend.info.n_kv)
        ends, found = zip(*read_slices(backend, tokens), strict=True)
    return tokens, ends, found


def _read_onnx(order: ExportOrder) -> _Read | None:
    """Let the new model write, and read a text in calls of one and of many tokens; None if memory
    is short."""
    from spillover.quantize.conversion.fidelity import end_of, sample, slices
    from spillover.quantize.onnx_parts import OnnxParts

    parts = OnnxParts(order.target)
    if available_memory() < _BESIDE_BYTES + _PACKED * parts.largest_bytes:
        return None
    n_ctx = min(N_CTX, order.n_ctx)
    write_by_parts(parts, n_ctx)
    tokens = sample(parts.tokenizer, n_ctx)
    calls = list(slices(tokens, len(tokens)))
    found = parts.last_logits(calls)
    for logits in found:
        check_finite(logits)
    return tokens, [end_of(rows) for rows in calls], found
