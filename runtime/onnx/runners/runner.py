"""The Protocol of ways to keep and use the KV cache of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from spillover.runtime.backend import Rows, SavedKv

LogitsRows: TypeAlias = npt.NDArray[Any]
"""(n, n_vocab), in the graph's own type."""


class Runner(Protocol):
    """The KV cache of all sequences, and the runs of the graph that read and extend it."""

    capacity: int
    """The most tokens a sequence may have."""
    held: list[int]
    """How many tokens each sequence has in the cache."""

    def split(self, batch: Sequence[Rows]) -> list[list[int]]:
        """The runs that a batch takes: for each, the indices of its Rows in the batch, in the order
        of its outputs."""
        ...

    def run(self, rows: Sequence[Rows], logits: LogitsRows) -> None:
        """Evaluate one of these runs; the wanted logits of the Rows, or those of the last token of
        Rows that want none, go to *logits*.

        After an error the sequences hold what they held before.
        """
        ...

    def truncate(self, seq: int, n_tokens: int) -> None:
        """Cut *seq* to its first *n_tokens*, which are no more than it has."""
        ...

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Copy the first *n_tokens* of *source* to *target*, which is empty or begins so."""
        ...

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        """A copy of these positions of *seq*."""
        ...

    def append(self, seq: int, n_tokens: int, state: SavedKv) -> None:
        """Add a saved state of *n_tokens* to *seq*, for which there is room."""
        ...
