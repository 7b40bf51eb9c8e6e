"""Which matrices of an ONNX model keep 8 bits when its weights may have a given size."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import Struct

from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export.calibrated.sensitivity import (
    Sensitivity,
    kept,
    more_bytes,
    sensitivities,
)
from spillover.quantize.onnx_export.export import open_source
from spillover.quantize.onnx_export.options import BlockSize, ExportOptions, HeadBits
from spillover.quantize.onnx_export.sizes import n_params, weights_bytes
from spillover.quantize.onnx_export.source import WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.target import N_CTX, Target, tokens_for

_LOSS_OF_BLOCKS: dict[BlockSize, float] = {32: 1.0, 64: 1.4, 128: 1.7}
"""How the losses of int4 compare (the first table of docs/quantize.md)."""


class Mixed(Struct, frozen=True, kw_only=True):
    """A recipe with 4 and 8 bits."""

    block: BlockSize
    head_bits: HeadBits
    kept: tuple[str, ...]
    """Patterns of the matrices with 8 bits."""
    n_matrices: int
    size_bytes: int
    bits_per_weight: float
    worst: tuple[str, ...]
    """The matrices that suffer most from 4 bits per byte, most first."""

    def summary(self) -> str:
        """For people."""
        return (
            f"{len(self.kept)} of {self.n_matrices} matrices keep 8 bits, in blocks of "
            f"{self.block}: {self.size_bytes / 1e6:.1f} MB, {self.bits_per_weight:.2f} bits per "
            f"weight. Those that lose most per byte: {', '.join(self.worst)}."
        )

    def explained(self, model: Path, text: Path | None) -> str:
        """The summary, with the command that makes it. *text*: None for our own."""
        flags = [f"--block {self.block} --head-bits {self.head_bits}"]
        flags += [f"--keep-8bit {shlex.quote(pattern)}" for pattern in self.kept]
        return (
            f"{self.summary()}\n"
            f"spillover export onnx {shlex.quote(str(model))} TARGET --weights int4 "
            f"--calibration {shlex.quote(str(text or 'auto'))} {' '.join(flags)}"
        )


def mixed(
    model: Path, target: Target, text: str, progress: Progress, *, tokenizer: Path | None = None
) -> Mixed:
    """Measure each product, and keep 8 bits where they help most. *text*: empty for our own;
    *tokenizer*: see ExportOptions.

    Raises ExportError, and QuantizeError for a target that cannot be met.
    """
    stored = open_source(model)
    source = SplitSource(stored)
    check(source)
    n_values = n_params(source)
    budget = target.budget(n_values)
    possible = _options_within(source, budget)
    tokens = tokens_for(stored, text, tokenizer)
    n_ctx = min(N_CTX, source.spec.n_ctx)
    found = sensitivities(
        source, possible[0], tokens, n_ctx, lambda n, n_all: progress("measuring layers", n, n_all)
    )
    choices = [_choice(source, options, found, budget) for options in possible]
    options = min(choices, key=lambda one: _loss(one, found))
    size = weights_bytes(source, options)
    worst = sorted(found, key=lambda one: one.loss / one.more_bytes, reverse=True)
    return Mixed(
        block=options.block,
        head_bits=options.head_bits,
        kept=options.eight_bits,
        n_matrices=sum(len(one.matrices) for one in found),
        size_bytes=size,
        bits_per_weight=8 * size / n_values,
        worst=tuple("+".join(one.matrices) for one in worst[:5]),
    )


def _options_within(source: WeightSource, budget: int) -> list[ExportOptions]:
    """Those with 4 bits that fit, the most exact ones first; with 4 bits in the embedding and the
    head only if nothing else fits."""
    for head_bits in get_args(HeadBits):
        options = [
            ExportOptions(weights="int4", block=size, head_bits=head_bits)
            for size in get_args(BlockSize)
        ]
        sizes = [weights_bytes(source, one) for one in options]
        fitting = [one for one, size in zip(options, sizes, strict=True) if size <= budget]
        if fitting:
            return fitting
    raise QuantizeError(
        f"{budget / 1e6:.1f} MB are too few: with 4 bits in the largest blocks the weights take "
        f"{min(sizes) / 1e6:.1f} MB. Raise the target, or choose a smaller model"
    )


def _choice(
    source: WeightSource, options: ExportOptions, found: Sequence[Sensitivity], budget: int
) -> ExportOptions:
    """*options* with 8 bits where the rest of the budget helps most."""
    left = budget - weights_bytes(source, options)
    sized = [
        msgspec.structs.replace(one, more_bytes=more_bytes(source, options, one.matrices))
        for one in found
    ]
    return msgspec.structs.replace(options, eight_bits=kept(sized, left))


def _loss(options: ExportOptions, found: Sequence[Sensitivity]) -> float:
    """What the products with 4 bits lose together, where blocks of 32 have the loss that was
    measured."""
    lost = sum(one.loss for one in found if one.matrices[0] not in options.eight_bits)
    return lost * _LOSS_OF_BLOCKS[options.block]
