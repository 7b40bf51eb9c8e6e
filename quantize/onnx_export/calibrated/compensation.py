"""Rounds a matrix for what it multiplies: later columns make up for the errors of earlier ones.

What counts is the error of the product with real inputs, whose second moments say how far columns
stand in for each other. Method: first a pass over the columns (Frantar et al., GPTQ, arXiv
2210.17323), the blocks that are used most first; the scale and the zero point of a block are
searched when its turn comes. Then sweeps in which each scale and each quantum gets the best value
while all others stay (coordinate descent).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spillover.quantize.onnx_export.blocks import (
    Blocks,
    Bytes,
    Floats,
    Rows,
    join,
    pack,
    round_to,
    search4,
)
from spillover.quantize.onnx_export.calibrated.second_moments import Piece, SecondMoments

Numbers = npt.NDArray[np.float64]

_SHRINKS = (1.0, 0.9, 0.8)
"""Fractions of a block's range to try."""
_SWEEPS = 2
"""The first one gains most; more than these gain a hundredth."""
_SMALL = 64
"""Half a matrix that is inverted at once."""
_CHUNK, _FEWEST_ROWS = 1 << 22, 256
"""Values rounded at a time, so that the intermediate arrays stay small."""


class Compensator:
    """Rounds matrices that multiply the same inputs, to blocks of 4 bits."""

    def __init__(self, moments: SecondMoments, block: int) -> None:
        self._block = block
        self._parts = [_Part(piece, block) for piece in moments.pieces]

    def quantize(self, rows: Rows, shape: tuple[int, int], *, is_symmetric: bool) -> Blocks:
        """A matrix of *shape* (outputs, inputs) in blocks. *rows* returns the part from one row to
        another."""
        step = max(_CHUNK // shape[1], _FEWEST_ROWS)
        return join(
            [
                self._quantize(rows(start, start + step), is_symmetric=is_symmetric)
                for start in range(0, shape[0], step)
            ]
        )

    def _quantize(self, matrix: Floats, *, is_symmetric: bool) -> Blocks:
        found = [part.rounded(matrix, is_symmetric=is_symmetric) for part in self._parts]
        quanta = np.concatenate([one.quanta for one in found])
        points = np.concatenate([one.points for one in found]).T
        blocks: Bytes = quanta.T.astype(np.uint8).reshape(len(matrix), -1, self._block)
        return Blocks(
            bits=4,
            n_values=matrix.shape[1],
            packed=pack(blocks),
            scales=np.ascontiguousarray(np.concatenate([one.scales for one in found]).T),
            zero_points=None if is_symmetric else np.ascontiguousarray(points.astype(np.uint8)),
            block=self._block,
        )


class _Rounded:
    """Columns as they are rounded. Columns lie together in memory, because they are worked on one
    after the other."""

    def __init__(self, n_values: int, n_blocks: int, n_rows: int) -> None:
        self.quanta = np.empty((n_values, n_rows), np.float32)
        self.scales = np.empty((n_blocks, n_rows), np.float32)
        self.points = np.empty((n_blocks, n_rows), np.float32)


class _Part:
    """The columns of one piece of the moments, with zeros where the last block is not full."""

    def __init__(self, piece: Piece, block: int) -> None:
        n_values = len(piece.moments)
        self._columns = piece.columns
        self._block = block
        n_padded = n_values + -n_values % block
        self._moments = np.eye(n_padded, dtype=np.float32)
        self._moments[:n_values, :n_values] = piece.moments
        used = self._moments.diagonal().copy()
        used[n_values:] = 0
        self._order = np.argsort(-used.reshape(-1, block).sum(1))
        self._places = (self._order[:, None] * block + np.arange(block)).ravel()
        self._factor = _factor_of_inverse(self._moments[np.ix_(self._places, self._places)])

    def rounded(self, matrix: Floats, *, is_symmetric: bool) -> _Rounded:
        n_padded = len(self._moments)
        columns = np.zeros((n_padded, len(matrix)), np.float32)
        columns[: self._columns.stop - self._columns.start] = matrix[:, self._columns].T
        found = _Rounded(n_padded, n_padded // self._block, len(matrix))
        self._pass(columns[self._places], found, is_symmetric=is_symmetric)
        self._sweep(columns, found)
        return found

    def _pass(self, columns: Floats, found: _Rounded, *, is_symmetric: bool) -> None:
        """Round all *columns*, which are in the order of the pass, and lose them."""
        size, factor = self._block, self._factor
        for i, start in enumerate(range(0, len(columns), size)):
            own = slice(start, start + size)
            place = self._order[i]
            quanta = found.quanta[place * size : (place + 1) * size]
            found.scales[place], found.points[place], errors = _round_block(
                columns[own], factor[own, own], quanta, is_symmetric=is_symmetric
            )
            columns[own.stop :] -= factor[own, own.stop :].T @ errors

    def _sweep(self, columns: Floats, found: _Rounded) -> None:
        """Improve what the pass found."""
        size, moments = self._block, self._moments
        exact = found.quanta - np.repeat(found.points, size, 0)
        exact *= np.repeat(found.scales, size, 0)
        # Minus half the slope of the squared error by each value.
        slopes: Floats = moments @ (columns - exact)
        for _ in range(_SWEEPS):
            for i, start in enumerate(range(0, len(columns), size)):
                own = slice(start, start + size)
                changes = _improve_block(
                    found.quanta[own],
                    found.scales[i],
                    found.points[i],
                    moments[own, own],
                    slopes[own].copy(),
                )
                slopes -= moments[:, own] @ changes


def _round_block(
    columns: Floats, factor: Floats, quanta: Floats, *, is_symmetric: bool
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
        exact = (quanta[j] - point) * scale
        errors[j] = (column - exact) / factor[j, j]
        columns[j + 1 :] -= factor[j, j + 1 :, None] * errors[j]
    return scale, point, errors


def _improve_block(
    quanta: Floats, scale: Floats, point: Floats, moments: Floats, slopes: Floats
) -> Floats:
    """Write better *quanta* (values, rows) and *scale* (rows,) while other blocks stay; return by
    how much the values change. *slopes* are used up."""
    centred = quanta - point
    before = centred * scale
    weighted = moments @ centred
    curvature = (centred * weighted).sum(0)
    step = np.divide(
        (centred * slopes).sum(0), curvature, out=np.zeros_like(scale), where=curvature > 0
    )
    slopes -= weighted * step
    scale += step
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    lowest, highest = -point, 15 - point
    for j, slope in enumerate(slopes):
        new = centred[j] + slope * (inverse / moments[j, j])
        np.rint(new, out=new)
        np.clip(new, lowest, highest, out=new)
        # Of the slopes only those of the columns that follow are needed.
        slopes[j + 1 :] -= moments[j + 1 :, j, None] * ((new - centred[j]) * scale)
        centred[j] = new
    quanta[...] = centred + point
    changes: Floats = centred * scale - before
    return changes


def _factor_of_inverse(moments: Floats) -> Floats:
    """The upper triangular U with Uᵀ U = moments⁻¹."""
    # In reverse order, R Rᵀ = moments with an upper triangular R, whose inverse is U.
    lower = np.linalg.cholesky(moments[::-1, ::-1].astype(np.float64))
    factor = lower[::-1, ::-1]
    _invert(factor)
    return factor.astype(np.float32)


def _invert(upper: Numbers) -> None:
    """Put the inverse of an upper triangular matrix in its place."""
    n = len(upper) // 2
    if n < _SMALL:
        upper[...] = np.linalg.inv(upper)
        return
    _invert(upper[:n, :n])
    _invert(upper[n:, n:])
    upper[:n, n:] = -upper[:n, :n] @ (upper[:n, n:] @ upper[n:, n:])
