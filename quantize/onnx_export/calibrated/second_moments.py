"""What is known of the inputs of a product, after a text has passed it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from msgspec import Struct

from spillover.quantize.onnx_export.blocks import Floats

_DAMPING = 0.2
"""Part of the mean second moment that is added to each, because other texts have other inputs; and
as much again as there are inputs per token, because few tokens say little. (With 0.01 the
storyteller gains nothing from a text of another kind than what it writes.)"""
_MOST_INPUTS = 2_048
"""Inputs that are looked at together: memory grows with the square of their number, time with the
cube."""


class Piece(Struct, frozen=True, kw_only=True):
    """Of some inputs that lie side by side."""

    columns: slice
    moments: Floats
    """(inputs, inputs): the sum of x · xᵀ over the inputs x, damped."""


class SecondMoments:
    """Sums over the inputs x of a product that has *n_inputs*, and over what x would be if nothing
    had been rounded before."""

    def __init__(self, n_inputs: int) -> None:
        starts = range(0, n_inputs, _MOST_INPUTS)
        self._columns = [slice(start, min(start + _MOST_INPUTS, n_inputs)) for start in starts]
        sizes = [one.stop - one.start for one in self._columns]
        self._sums = [np.zeros((size, size), np.float32) for size in sizes]
        self._missed = [np.zeros((size, size), np.float32) for size in sizes]
        self._n_inputs = n_inputs
        self._n_tokens = 0

    def add(self, found: Floats, wanted: Floats, weights: Floats) -> None:
        """Inputs *found* (tokens, n_inputs), those *wanted* in their place, and how much each token
        counts (tokens,)."""
        roots = np.sqrt(weights)[:, None]
        weighted, missing = found * roots, (wanted - found) * roots
        for columns, sums, missed in zip(self._columns, self._sums, self._missed, strict=True):
            own = np.ascontiguousarray(weighted[:, columns])
            sums += own.T @ own
            missed += missing[:, columns].T @ own
        self._n_tokens += len(found)

    @property
    def pieces(self) -> list[Piece]:
        return [
            Piece(columns=columns, moments=self._damped(sums))
            for columns, sums in zip(self._columns, self._sums, strict=True)
        ]

    def corrected(self, matrix: Floats) -> Floats:
        """Rows of a matrix (outputs, n_inputs) whose products with what is found are nearest to
        those of *matrix* with what is wanted. Method: Arai and Ichikawa, Quantization Error
        Propagation (arXiv 2504.09629)."""
        result = matrix.copy()
        for columns, share in zip(self._columns, self._shares, strict=True):
            result[:, columns] += matrix[:, columns] @ share
        return result

    @cached_property
    def _shares(self) -> list[Floats]:
        """What is missed of each input, as a sum of inputs; for each piece."""
        return [
            np.linalg.solve(self._damped(sums), missed.T).T
            for sums, missed in zip(self._sums, self._missed, strict=True)
        ]

    def _damped(self, sums: Floats) -> Floats:
        damping = _DAMPING + self._n_inputs / self._n_tokens
        damped: Floats = sums.copy()
        np.fill_diagonal(damped, sums.diagonal() + damping * (sums.diagonal().mean() or 1.0))
        return damped
