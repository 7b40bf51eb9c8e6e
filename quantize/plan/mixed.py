"""Which matrices of an ONNX model keep 8 bits when its weights may have a given size."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import Struct

from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export.calibrated.sensitivity import kept, sensitivities
from spillover.quantize.onnx_export.export import open_source
from spillover.quantize.onnx_export.options import BlockSize, ExportOptions
from spillover.quantize.onnx_export.sizes import n_params, weights_bytes
from spillover.quantize.onnx_export.source import WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.target import N_CTX, Target, tokens_for


class Mixed(Struct, frozen=True, kw_only=True):
    """A recipe with 4 and 8 bits."""

    block: int
    kept: tuple[str, ...]
    """Patterns of the matrices with 8 bits."""
    n_matrices: int
    size_bytes: int
    bits_per_weight: float
    worst: tuple[str, ...]
    """The matrices that suffer most from 4 bits per byte, most first."""

    def explained(self, model: Path, text: Path | None) -> str:
        """For people, with the command that makes it. *text*: None for our own."""
        flags = [f"--block {self.block}", *(f"--keep-8bit {shlex.quote(p)}" for p in self.kept)]
        return (
            f"{len(self.kept)} of {self.n_matrices} matrices keep 8 bits, in blocks of "
            f"{self.block}: {self.size_bytes / 1e6:.1f} MB, {self.bits_per_weight:.2f} bits per "
            f"weight. Those that lose most per byte: {', '.join(self.worst)}.\n"
            f"spillover export onnx {shlex.quote(str(model))} TARGET --weights int4 "
            f"--calibration {shlex.quote(str(text or 'auto'))} {' '.join(flags)}"
        )


def mixed(model: Path, target: Target, text: str, progress: Progress) -> Mixed:
    """Measure each product, and keep 8 bits where they help most. *text*: empty for our own.

    Raises ExportError, and QuantizeError for a target that cannot be met.
    """
    stored = open_source(model)
    source = SplitSource(stored)
    check(source)
    n_values = n_params(source)
    budget = target.budget(n_values)
    options = _options_within(source, budget)
    tokens = tokens_for(stored, text)
    n_ctx = min(N_CTX, source.spec.n_ctx)
    found = sensitivities(
        source, options, tokens, n_ctx, lambda n, n_all: progress("measuring layers", n, n_all)
    )
    chosen = kept(found, budget - weights_bytes(source, options))
    size = weights_bytes(source, msgspec.structs.replace(options, eight_bits=chosen))
    worst = sorted(found, key=lambda one: one.change / one.more_bytes, reverse=True)
    return Mixed(
        block=options.block,
        kept=chosen,
        n_matrices=sum(len(one.matrices) for one in found),
        size_bytes=size,
        bits_per_weight=8 * size / n_values,
        worst=tuple("+".join(one.matrices) for one in worst[:5]),
    )


def _options_within(source: WeightSource, budget: int) -> ExportOptions:
    """4 bits in the smallest blocks that the budget allows: they are the most exact ones."""
    for size in get_args(BlockSize):
        options = ExportOptions(weights="int4", block=size)
        smallest = weights_bytes(source, options)
        if smallest <= budget:
            return options
    raise QuantizeError(
        f"{budget / 1e6:.1f} MB are too few: with 4 bits in the largest blocks the weights take "
        f"{smallest / 1e6:.1f} MB. Raise the target, or choose a smaller model"
    )
