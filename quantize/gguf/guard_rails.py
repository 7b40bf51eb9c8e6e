"""What to refuse, and what to warn of, before a file is quantized."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path

from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.recipe import Plan, PlannedTensor, Recipe

_NEEDING = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
"""Types that llama.cpp makes of a matrix only if its importance is known."""
_UNWEIGHTED = ("F32", "F16", "BF16", "Q8_0", "MXFP4", "NVFP4", "TQ2_0", "TQ1_0")
"""Types to which all weights are rounded alike (quantize_… in ggml-quants.c)."""


def check_plan(source: Path, recipe: Recipe, plan: Plan) -> None:
    """Raises QuantizeError for a plan that should not, or cannot, be carried out."""
    for reason in refusals(source, recipe, plan):
        raise QuantizeError(reason)


def refusals(source: Path, recipe: Recipe, plan: Plan) -> Generator[str]:
    """Why a plan should not, or cannot, be carried out; nothing: it can."""
    again = [tensor for tensor in plan.tensors if tensor.is_rounded_again]
    if again and not recipe.allow_requantize:
        yield f"{source} is quantized already: {_cost(again)}"
    yield from _without_importance(recipe, plan)
    yield from _without_effect(recipe, plan)


def notes_on(recipe: Recipe, plan: Plan) -> Generator[str]:
    """Warnings for the user."""
    if recipe.has_imatrix and not uses_importance(plan):
        yield f"{recipe.file_type} rounds all weights alike: the importance matrix is not used"
    again = [tensor for tensor in plan.tensors if tensor.is_rounded_again]
    if again:
        yield f"weights that are quantized already are rounded once more: {_changes(again)}"
    for wanted, planned, n_values in sorted(
        {
            (tensor.wanted, tensor.planned, tensor.shape[0])
            for tensor in plan.tensors
            if tensor.wanted != tensor.planned
        }
    ):
        alike = [
            tensor
            for tensor in plan.tensors
            if (tensor.wanted, tensor.planned, tensor.shape[0]) == (wanted, planned, n_values)
        ]
        yield (
            f"{_number(alike)} with rows of {n_values} values cannot be {wanted}, whose blocks do "
            f"not divide them, and become {planned}: {_some(alike)}"
        )


def _without_importance(recipe: Recipe, plan: Plan) -> Generator[str]:
    """What is to be weighted by an importance matrix, and is not."""
    is_coarse = recipe.file_type == "Q2_K_S"  # whose layers need one for Q2_K, too
    lacking = [
        tensor
        for tensor in plan.tensors
        if tensor.is_changed
        and not tensor.is_weighted
        and (
            tensor.planned in _NEEDING
            or (is_coarse and tensor.planned == "Q2_K" and tensor.name.startswith("blk."))
        )
    ]
    if plan.needs_imatrix and not recipe.has_imatrix:
        yield f"{recipe.file_type} needs an importance matrix: --imatrix auto computes one"
    elif lacking:
        kinds = ", ".join(dict.fromkeys(tensor.planned for tensor in lacking))
        yield (
            f"{_number(lacking)} cannot become {kinds}, because no importance matrix has their "
            f"inputs: {_some(lacking)}. Name another type for them by --tensor"
        )


def _without_effect(recipe: Recipe, plan: Plan) -> Generator[str]:
    """Options that would change nothing."""
    taken: set[str] = set()
    for pattern, kind in recipe.tensors:
        fitting = [t for t in plan.tensors if re.search(pattern, t.name) and t.name not in taken]
        taken |= {tensor.name for tensor in fitting}
        if not any(kind in (tensor.planned, tensor.wanted) for tensor in fitting):
            what = "are fitted by a pattern before it" if not fitting else "are never quantized"
            yield (
                f"--tensor {pattern}={kind} has no effect, because the tensors that it fits {what}"
                ": leave it out, or put it first"
            )
    if recipe.imatrix is not None and not any(tensor.is_weighted for tensor in plan.tensors):
        yield f"{recipe.imatrix} has no matrix of this model: compute one from it"


def uses_importance(plan: Plan) -> bool:
    """Whether weights are rounded to types that count how important each one is."""
    return any(tensor.is_changed and tensor.planned not in _UNWEIGHTED for tensor in plan.tensors)


def _cost(again: list[PlannedTensor]) -> str:
    return (
        f"{_number(again)} would be rounded once more ({_changes(again)}). What the first rounding "
        "lost stays lost, and the second adds its own error: a KL divergence of 0.04 nats when "
        "SmolLM2 135M went from Q4_1 to Q4_K_M, and more with fewer bits. Start from the F16, BF16 "
        "or F32 file, choose a type with at least one bit more, or pass --allow-requantize"
    )


def _changes(tensors: list[PlannedTensor]) -> str:
    counts = Counter((tensor.stored, tensor.planned) for tensor in tensors)
    return ", ".join(f"{old} → {new} in {n}" for (old, new), n in counts.most_common())


def _number(tensors: list[PlannedTensor]) -> str:
    return "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"


def _some(tensors: list[PlannedTensor]) -> str:
    names = ", ".join(tensor.name for tensor in tensors[:2])
    return names + (f" and {len(tensors) - 2} more" if len(tensors) > 2 else "")
