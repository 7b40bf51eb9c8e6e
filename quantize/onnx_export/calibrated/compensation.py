"""Rounds a matrix column by column, and lets later columns make up for the errors of earlier ones.

What counts is the error of the product with real inputs, whose second moments say how far columns
stand in for each other. Method: Frantar et al., GPTQ (arXiv 2210.17323); the scale and the zero
point of a block are searched when its turn comes, with the errors so far already made up for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spillover.quantize.onnx_export.blocks import Blocks, Bytes, Floats, pack, round_to, search4

_DAMPING = 0.2
"""Part of the mean second moment that is added to each, because other texts have other inputs; and
as much again as there are inputs per token, because few tokens say little. (With 0.01 the
storyteller gains nothing from a text of another kind than what it writes.)"""
_SHRINKS = (1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
"""Fractions of a block's range to try."""

Moments = npt.NDArray[np.float64]
"""(inputs, inputs): the sum of x · xᵀ over the inputs x of a product."""


class Compensator:
    """Rounds matrices that multiply the same inputs."""

    def __init__(self, moments: Moments, n_tokens: int) -> None:
        self._factor = _factor_of_inverse(moments, _DAMPING + len(moments) / n_tokens)

    def quantize(self, matrix: Floats, *, block: int, is_symmetric: bool) -> Blocks:
        """*matrix* (outputs, inputs) in blocks of 4 bits."""
        n_rows, n_values = matrix.shape
        n_padded = n_values + -n_values % block
        # Columns lie together in memory, because they are worked on one after the other.
        columns = np.zeros((n_padded, n_rows), np.float32)
        columns[:n_values] = matrix.T
        factor = np.eye(n_padded, dtype=np.float32)
        factor[:n_values, :n_values] = self._factor
        quanta = np.empty((n_padded, n_rows), np.uint8)
        scales = np.empty((n_rows, n_padded // block), np.float32)
        points = np.empty_like(scales)
        for i, start in enumerate(range(0, n_padded, block)):
            own = slice(start, start + block)
            scales[:, i], points[:, i], errors = _round_block(
                columns[own], factor[own, own], quanta[own], is_symmetric=is_symmetric
            )
            columns[start + block :] -= factor[own, start + block :].T @ errors
        blocks: Bytes = np.ascontiguousarray(quanta.T).reshape(n_rows, -1, block)
        return Blocks(
            bits=4,
            n_values=n_values,
            packed=pack(blocks),
            scales=scales,
            zero_points=None if is_symmetric else points.astype(np.uint8),
            block=block,
        )


def _round_block(
    columns: Floats, factor: Floats, quanta: Bytes, *, is_symmetric: bool
) -> tuple[Floats, Floats, Floats]:
    """Write the quanta of *columns* (values, rows); return scales, zero points (rows,), and the
    errors (values, rows) that other blocks make up for."""
    weights: Floats = np.reciprocal(np.square(factor.diagonal()))
    found = search4(columns.T[:, None], weights, is_symmetric=is_symmetric, shrinks=_SHRINKS)
    scale, point = found[0][:, 0], found[1][:, 0]
    errors = np.empty_like(columns)
    for j, column in enumerate(columns):
        quanta[j] = round_to(column[:, None, None], scale[:, None], point[:, None, None], 15)[
            :, 0, 0
        ]
        exact = (quanta[j].astype(np.float32) - point) * scale
        errors[j] = (column - exact) / factor[j, j]
        columns[j + 1 :] -= factor[j, j + 1 :, None] * errors[j]
    return scale, point, errors


def _factor_of_inverse(moments: Moments, damping: float) -> Floats:
    """The upper triangular U with Uᵀ U = (damped moments)⁻¹."""
    damped = moments.copy()
    mean = damped.diagonal().mean() or 1.0
    damped += np.eye(len(damped)) * (damping * mean)
    inverse = np.linalg.inv(damped)
    factor: Floats = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    return factor
