"""Which matrices of an ONNX model keep 8 bits when its weights may have a given size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import Struct

from spillover.quantize.child import Progress
from spillover.quantize.onnx_export.calibrated.sensitivity import (
    Sensitivity,
    kept,
    more_bytes,
    sensitivities,
)
from spillover.quantize.onnx_export.export import choose_n_ctx, open_source
from spillover.quantize.onnx_export.options import BlockSize, ExportOptions, HeadBits
from spillover.quantize.onnx_export.sizes import n_params, weights_bytes
from spillover.quantize.onnx_export.source import WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.commands import new_name, onnx_export, typed
from spillover.quantize.plan.target import N_CTX, Target, tokens_for


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
    n_ctx: int | None
    """The context that was asked for."""

    def summary(self) -> str:
        """For people."""
        return (
            f"{len(self.kept)} of {self.n_matrices} matrices keep 8 bits, in blocks of "
            f"{self.block}: {self.size_bytes / 1e6:.1f} MB, {self.bits_per_weight:.2f} bits per "
            f"weight. Those that lose most per byte: {', '.join(self.worst)}."
        )

    def commands(self, model: Path, text: Path | None) -> list[str]:
        """What makes it. *text*: None for our own."""
        flags = ["--weights int4", f"--calibration {typed(text) if text else 'auto'}"]
        flags += [f"--block {self.block}", f"--head-bits {self.head_bits}"]
        flags += [f"--keep-8bit {pattern}" for pattern in self.kept]
        flags += [] if self.n_ctx is None else [f"--n-ctx {self.n_ctx}"]
        target = new_name(model, f"{self.bits_per_weight:.2f}bpw")
        return [onnx_export(model, target, flags)]


def mixed(
    model: Path,
    target: Target,
    text: str,
    progress: Progress,
    *,
    tokenizer: Path | None = None,
    n_ctx: int | None = None,
) -> Mixed:
    """Measure each product, and keep 8 bits where they help most. *text*: empty for our own;
    *tokenizer*, *n_ctx*: see ExportOptions.

    Raises ExportError, and QuantizeError for a target that cannot be met.
    """
    stored = open_source(model)
    source = SplitSource(stored)
    check(source)
    choose_n_ctx(source, ExportOptions(n_ctx=n_ctx))
    n_values = n_params(source)
    budget = _budget(target, source)
    possible = _options_within(source, budget)
    tokens = tokens_for(stored, text, tokenizer)
    choices: list[tuple[ExportOptions, list[Sensitivity]]] = []
    for options in possible:
        # Each block size is measured: how much more larger blocks lose differs between models.
        found = sensitivities(
            source,
            options,
            tokens,
            min(N_CTX, source.spec.n_ctx),
            lambda n, n_all: progress(
                "measuring layers", len(choices) * n_all + n, len(possible) * n_all
            ),
        )
        choices.append((_choice(source, options, found, budget), found))
    options, found = min(choices, key=lambda choice: _loss(*choice))
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
        n_ctx=n_ctx,
    )


def _budget(target: Target, source: WeightSource) -> int:
    """The target in bytes. Raises QuantizeError for one that cannot be met, or that leaves nothing
    to choose."""
    sizes = [
        weights_bytes(source, ExportOptions(weights="int4", block=block, head_bits=head_bits))
        for block in get_args(BlockSize)
        for head_bits in get_args(HeadBits)
    ]
    exact = ExportOptions(weights="int8")
    largest = weights_bytes(source, exact)
    return target.budget_within(n_params(source), min(sizes), largest, "--weights int8")


def _options_within(source: WeightSource, budget: int) -> list[ExportOptions]:
    """Those with 4 bits that fit, the most exact ones first; with 4 bits in the embedding and the
    head only if nothing else fits. Some do."""
    for head_bits in get_args(HeadBits):
        options = [
            ExportOptions(weights="int4", block=size, head_bits=head_bits)
            for size in get_args(BlockSize)
        ]
        sizes = [weights_bytes(source, one) for one in options]
        fitting = [one for one, size in zip(options, sizes, strict=True) if size <= budget]
        if fitting:
            break
    return fitting


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
    """What the products with 4 bits lose together."""
    return sum(one.loss for one in found if one.matrices[0] not in options.eight_bits)
