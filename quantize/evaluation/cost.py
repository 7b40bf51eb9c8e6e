"""What a model costs on this device: disk, memory, time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psutil
from msgspec import Struct

from spillover.models import onnx_folder
from spillover.quantize.child import Progress
from spillover.quantize.conversion.rates import measure_rates
from spillover.quantize.evaluation.model_files import files_of
from spillover.runtime.backend import Backend
from spillover.runtime.conversions.record import EngineRates
from spillover.runtime.options import EngineOptions

_N_SEQ, _N_CTX = 4, 1_024
_OPTIONS = EngineOptions(
    n_ctx=_N_CTX,
    n_kv=_N_SEQ * _N_CTX,
    n_parallel=_N_SEQ,
    n_prefix_cached=0,
    adapt_threads=False,
    second_layout="off",
)


class Cost(Struct, frozen=True, kw_only=True):
    """What was measured in a process of its own."""

    rss_bytes: int
    """Resident memory of that process, with room for four sequences of 1,024 tokens."""
    rates: EngineRates
    """The best of some rounds; other programs only slow down."""
    was_disturbed: bool
    """Whether other programs took cores in every round."""


class CostOrder(Struct, frozen=True, kw_only=True):
    """Which model to measure."""

    path: Path


def measure_cost(order: CostOrder, progress: Progress) -> Cost:
    """Load the model and measure it, in a process that has done nothing else. Raises ModelError."""
    with closing(_open(order.path)) as backend:
        rates, was_disturbed = measure_rates(backend)
        rss_bytes = psutil.Process().memory_info().rss
        return Cost(rss_bytes=rss_bytes, rates=rates, was_disturbed=was_disturbed)


def _open(path: Path) -> Backend:
    if onnx_folder.is_onnx(path):
        from spillover.runtime.onnx.opening import open_onnx  # slow

        return open_onnx(path, _OPTIONS).backend
    from spillover.runtime.llama.opening.opening import open_gguf  # slow

    return open_gguf(files_of(path)[0], _OPTIONS).backend
