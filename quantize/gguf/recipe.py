"""What is to be made of a GGUF file, and what that will be."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct

from spillover.models.ggml_types import GGML_TYPES, GgmlType

ALIGNMENT = 32
"""llama.cpp begins each tensor at a multiple of so many bytes."""
_TYPE_BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}


class Recipe(Struct, frozen=True, kw_only=True):
    """How a file is quantized."""

    file_type: str
    """A key of FILE_TYPES."""
    tensors: tuple[tuple[str, str], ...] = ()
    """Expressions that are searched in the names of tensors, and the type of those where they are
    found; the first that is found counts."""
    imatrix: Path | None = None
    """An importance matrix to use."""
    is_calibrated: bool = False
    """Whether an importance matrix is to be computed where none is given."""
    allow_requantize: bool = False
    """Whether weights that are quantized already may be rounded to fewer bits."""


class QuantizeOrder(Struct, frozen=True, kw_only=True):
    """A recipe for one file."""

    source: Path
    target: Path
    """Written only by quantize()."""
    recipe: Recipe
    n_threads: int
    metadata: dict[str, str | int] = {}
    """Keys to add. Texts have at most 127 bytes."""


class PlannedTensor(Struct, frozen=True, kw_only=True):
    """One tensor, as it is and as it will be stored."""

    name: str
    shape: tuple[int, ...]
    stored: str
    planned: str
    wanted: str
    """Other than *planned* where rows cannot be cut into blocks of this type."""

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_values * bits_of(self.planned).n_bytes // bits_of(self.planned).n_values

    @property
    def is_rounded_again(self) -> bool:
        """Whether weights that are quantized already lose bits."""
        is_quantized = bits_of(self.stored).n_values > 1
        return is_quantized and bits_per_weight(self.planned) < bits_per_weight(self.stored)


class Plan(Struct, frozen=True, kw_only=True):
    """A file before it is made."""

    tensors: tuple[PlannedTensor, ...]
    needs_imatrix: bool
    """Whether it cannot be made for want of an importance matrix."""
    header_bytes: int

    @property
    def size_bytes(self) -> int:
        padded = (-(-tensor.n_bytes // ALIGNMENT) * ALIGNMENT for tensor in self.tensors)
        return self.header_bytes + sum(padded)

    @property
    def bits_per_weight(self) -> float:
        n_bits = 8 * sum(tensor.n_bytes for tensor in self.tensors)
        return n_bits / sum(tensor.n_values for tensor in self.tensors)


def bits_of(name: str) -> GgmlType:
    """The blocks of a tensor type."""
    return _TYPE_BY_NAME[name]


def bits_per_weight(name: str) -> float:
    """Of a tensor type."""
    return 8 * bits_of(name).n_bytes / bits_of(name).n_values
