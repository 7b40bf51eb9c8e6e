"""What is to be made of a GGUF file, and what that will be."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct

from spillover.models.ggml_types import GGML_TYPES, GgmlType

ALIGNMENT = 32
"""llama.cpp begins each tensor at a multiple of so many bytes."""
_TYPE_BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}
_MORE_BITS = 1.0
"""Per weight, that a type must have beyond the stored one so that rounding to it adds little: from
Q4_0 an eighth at most with one bit more, and up to three quarters with less (docs/quantize.md)."""


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
    """Whether weights that are quantized already may be rounded once more."""

    @property
    def has_imatrix(self) -> bool:
        return self.imatrix is not None or self.is_calibrated


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
    is_weighted: bool = False
    """Whether the importance matrix has its inputs."""

    @property
    def is_changed(self) -> bool:
        """Whether its weights are rounded; otherwise they are copied."""
        return self.planned != self.stored

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_values * bits_of(self.planned).n_bytes // bits_of(self.planned).n_values

    @property
    def is_rounded_again(self) -> bool:
        """Whether weights that are quantized already lose much by being rounded once more: to fewer
        bits, or to others of about the same number."""
        is_quantized = bits_of(self.stored).n_values > 1
        n_more = bits_per_weight(self.planned) - bits_per_weight(self.stored)
        return is_quantized and self.is_changed and n_more < _MORE_BITS


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
