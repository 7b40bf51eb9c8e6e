"""Asks llama.cpp how large its types would make a file, without making any."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from spillover.quantize.child import Progress
from spillover.quantize.gguf.recipe import QuantizeOrder, Recipe
from spillover.quantize.plan.recipes import GGUF_RECIPES


class GgufSize(Struct, frozen=True, kw_only=True):
    """A file of one type."""

    size_bytes: int
    is_rounded_again: bool
    """Whether weights would be rounded once more that are quantized already."""


class SizesOrder(Struct, frozen=True, kw_only=True):
    """The file to ask about."""

    source: Path


def gguf_sizes(order: SizesOrder, progress: Progress) -> dict[str, GgufSize]:
    """By type, for all types of a plan. Raises QuantizeError."""
    from spillover.quantize.gguf.native import plan  # slow, and llama.cpp may be missing

    found: dict[str, GgufSize] = {}
    for i, recipe in enumerate(GGUF_RECIPES):
        progress("asking llama.cpp for sizes", i, len(GGUF_RECIPES))
        asked = QuantizeOrder(
            source=order.source,
            target=order.source,
            recipe=Recipe(file_type=recipe.file_type, is_calibrated=recipe.has_imatrix),
            n_threads=1,
        )
        planned = plan(asked, progress)
        found[recipe.file_type] = GgufSize(
            size_bytes=planned.size_bytes,
            is_rounded_again=any(tensor.is_rounded_again for tensor in planned.tensors),
        )
    return found
