"""What to refuse, and what to warn of, before a file is quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from pathlib import Path

from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.recipe import Plan, PlannedTensor, Recipe


def check_plan(source: Path, recipe: Recipe, plan: Plan) -> None:
    """Raises QuantizeError for a plan that should not, or cannot, be carried out."""
    again = [tensor for tensor in plan.tensors if tensor.is_rounded_again]
    if again and not recipe.allow_requantize:
        raise QuantizeError(f"{source} is quantized already: {_cost(again)}")
    if plan.needs_imatrix:
        raise QuantizeError(
            f"{recipe.file_type} needs an importance matrix: --imatrix auto computes one"
        )


def notes_on(plan: Plan) -> Generator[str]:
    """Warnings for the user."""
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


def _cost(again: list[PlannedTensor]) -> str:
    return (
        f"{_number(again)} would be rounded to fewer bits once more ({_changes(again)}). What the "
        "first rounding lost stays lost, and the second adds its own error: a KL divergence of "
        "0.04 nats when SmolLM2 135M went from Q4_1 to Q4_K_M, and more with fewer bits. Start "
        "from the F16, BF16 or F32 file, or pass --allow-requantize"
    )


def _changes(tensors: list[PlannedTensor]) -> str:
    counts = Counter((tensor.stored, tensor.planned) for tensor in tensors)
    return ", ".join(f"{old} → {new} in {n}" for (old, new), n in counts.most_common())


def _number(tensors: list[PlannedTensor]) -> str:
    return "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"


def _some(tensors: list[PlannedTensor]) -> str:
    names = ", ".join(tensor.name for tensor in tensors[:2])
    return names + (f" and {len(tensors) - 2} more" if len(tensors) > 2 else "")
