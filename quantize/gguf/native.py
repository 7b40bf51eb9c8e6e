"""Quantizes a GGUF file, or plans to: the part of a child process. Its parent only names the
functions, so llama.cpp is imported when they are called."""

from __future__ import annotations

import math
import re

from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import TensorInfo
from spillover.models.gguf_model import GgufModel, read_model
from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.recipe import Plan, PlannedTensor, QuantizeOrder, Recipe

_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\] (\S+) +- \[.*\], type = +(\w+), (.*)")
_BECOMES = re.compile(r"\((\w+)\)$")
_FALLS_BACK = re.compile(r"warning: (\S+) +- ncols .*required for type +(\w+)\)")
_NEEDS_IMATRIX = "will require an imatrix"


def plan(order: QuantizeOrder, progress: Progress) -> Plan:
    """What quantize() would make of the file. Raises QuantizeError."""
    planned: dict[str, str] = {}
    wanted: dict[str, str] = {}
    needs_imatrix = False

    def read(line: str) -> None:
        nonlocal needs_imatrix
        if found := _TENSOR.match(line):
            becomes = _BECOMES.search(found[5])
            planned[found[3]] = (becomes[1] if becomes else found[4]).upper()
        elif found := _FALLS_BACK.match(line):
            wanted[found[1]] = found[2].upper()
        needs_imatrix |= _NEEDS_IMATRIX in line

    from spillover.quantize.gguf.llama_quantize import call_llama  # slow

    call_llama(order, read, is_dry_run=True)
    model = read_model(order.source)
    if planned.keys() != {tensor.name for tensor in model.tensors}:
        raise QuantizeError(
            "llama.cpp does not say what it would make of each tensor: use a version of "
            "llama-cpp-python that Spillover was tested with"
        )
    weighted = _weighted(order.recipe, model)
    return _plan(model, planned, wanted, weighted, needs_imatrix=needs_imatrix)


def quantize(order: QuantizeOrder, progress: Progress) -> None:
    """Write the order's target. Raises QuantizeError."""

    def read(line: str) -> None:
        if found := _TENSOR.match(line):
            progress("quantizing", int(found[1]), int(found[2]))

    from spillover.quantize.gguf.llama_quantize import call_llama  # slow

    call_llama(order, read, is_dry_run=False)


def _plan(
    model: GgufModel,
    planned: dict[str, str],
    wanted: dict[str, str],
    weighted: set[str],
    *,
    needs_imatrix: bool,
) -> Plan:
    tensors = tuple(
        PlannedTensor(
            name=tensor.name,
            shape=tensor.shape,
            stored=_type_name(tensor),
            planned=planned[tensor.name],
            wanted=wanted.get(tensor.name, planned[tensor.name]),
            is_weighted=tensor.name in weighted,
        )
        for tensor in model.tensors
    )
    header_bytes = sum(header.data_offset for _, header in model.parts)
    return Plan(tensors=tensors, needs_imatrix=needs_imatrix, header_bytes=header_bytes)


def _weighted(recipe: Recipe, model: GgufModel) -> set[str]:
    """The tensors whose inputs the importance matrix has. Raises QuantizeError for the matrix of
    another model."""
    if recipe.imatrix is None:
        # One that is computed has what the layers multiply.
        inside = (tensor.name for tensor in model.tensors if tensor.name.startswith("blk."))
        return set(inside) if recipe.is_calibrated else set()
    from spillover.quantize.gguf.imatrix_file import read_imatrix  # slow

    found = {name: sums.size for name, sums in read_imatrix(recipe.imatrix).sums.items()}
    sizes = {tensor.name: tensor.shape[0] * math.prod(tensor.shape[2:]) for tensor in model.tensors}
    for name, size in found.items():
        if size != sizes.get(name, size):
            raise QuantizeError(
                f"{recipe.imatrix} is of another model: it has {size} inputs of {name[:80]}, which "
                f"has {sizes[name]}. Compute one from this model"
            )
    return sizes.keys() & found.keys()


def _type_name(tensor: TensorInfo) -> str:
    kind = GGML_TYPES.get(tensor.type_id)
    if kind is None:
        raise QuantizeError(
            f"{tensor.name[:80]!r} has the type {tensor.type_id}, which is not known here"
        )
    return kind.name
