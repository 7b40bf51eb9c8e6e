"""Weights in blocks along the input, of 32 values or more, as MatMulNBits holds them.

    value = (quantum - zero point) * scale

Every block has its own scale, and its own zero point where the blocks are asymmetric. The operator:
ONNX Runtime, ContribOperators.md, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

BLOCK = 32
"""Values of a block, unless it says otherwise."""
_CHUNK = 1 << 21
"""Values quantized at a time, so that the intermediate arrays stay small."""
_SMALLEST_SCALE = 1e-30
_SHRINKS = (1.1, 1.0, 0.9)
"""Fractions of a block's range to try: clipping its extremes often costs less than it gains for the
rest, and the least-squares scale may exceed the range."""
_REFINEMENTS = 3
_EVEN = np.float32(1)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Rows = Callable[[int, int], Floats]


class Blocks(Struct, frozen=True, kw_only=True):
    """A matrix (rows, values) in blocks."""

    bits: int
    n_values: int
    """Values per row; extra values in the last block are padding and mean zero."""
    packed: Bytes
    """(rows, blocks, block * bits / 8); of two quanta in a byte the first is in the lower bits."""
    scales: Floats
    """(rows, blocks)"""
    zero_points: Bytes | None = None
    """(rows, blocks), one in a byte; None: the middle, 2^(bits - 1)."""
    block: int = BLOCK
    """Values of a block."""

    def packed_zero_points(self) -> Bytes | None:
        """The zero points as the operator expects them: rows of whole bytes."""
        if self.zero_points is None or self.bits == 8:
            return self.zero_points
        points = np.pad(self.zero_points, ((0, 0), (0, self.zero_points.shape[1] % 2)))
        packed: Bytes = points[:, ::2] | (points[:, 1::2] << np.uint8(4))
        return packed

    def of_rows(self, rows: slice | npt.NDArray[np.int64]) -> Blocks:
        """Some of the rows."""
        points = self.zero_points
        return msgspec.structs.replace(
            self,
            packed=self.packed[rows],
            scales=self.scales[rows],
            zero_points=None if points is None else points[rows],
        )

    def values(self) -> Floats:
        """The values that the blocks represent, (rows, n_values)."""
        quanta = _unpack(self.packed) if self.bits == 4 else self.packed
        middle = np.uint8(1 << (self.bits - 1))
        points = middle if self.zero_points is None else self.zero_points[..., None]
        exact = quanta.astype(np.float32) - np.asarray(points, np.float32)
        values: Floats = (exact * self.scales[..., None]).reshape(len(exact), -1)
        return values[:, : self.n_values]


def quantize(
    rows: Rows, shape: tuple[int, int], *, bits: int, is_symmetric: bool, block: int = BLOCK
) -> Blocks:
    """The blocks nearest to a matrix of *shape*. *rows* returns the part from one row to another,
    so that the whole matrix is never held as floats."""
    n_rows, n_values = shape
    step = max(_CHUNK // n_values, 1)
    return join(
        [
            _quantize_rows(
                rows(start, start + step), bits=bits, is_symmetric=is_symmetric, block=block
            )
            for start in range(0, n_rows, step)
        ]
    )


def join(parts: Sequence[Blocks]) -> Blocks:
    """All rows of *parts*, which have the same bits and blocks of the same size, in order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    points = None
    if any(part.zero_points is not None for part in parts):
        points = np.concatenate([_zero_points(part) for part in parts])
    return Blocks(
        bits=first.bits,
        n_values=first.n_values,
        packed=np.concatenate([part.packed for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=points,
        block=first.block,
    )


def pack(quanta: Bytes) -> Bytes:
    """Pack two values below 16 into a byte, along the last axis."""
    packed: Bytes = quanta[..., ::2] | (quanta[..., 1::2] << np.uint8(4))
    return packed


def _unpack(packed: Bytes) -> Bytes:
    unpacked: Bytes = np.stack([packed & 15, packed >> 4], -1)
    return unpacked.reshape(*packed.shape[:-1], -1)


def _zero_points(part: Blocks) -> Bytes:
    if part.zero_points is not None:
        return part.zero_points
    return np.full(part.scales.shape, 1 << (part.bits - 1), np.uint8)


def _quantize_rows(rows: Floats, *, bits: int, is_symmetric: bool, block: int) -> Blocks:
    n_values = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (0, -n_values % block)))
    blocks = padded.reshape(len(rows), -1, block)
    points: Bytes | None = None
    if bits == 8:
        quanta, scales = _symmetric8(blocks)
    else:
        scales, middles = search4(blocks, is_symmetric=is_symmetric)
        quanta = round_to(blocks, scales, middles[..., None], 15)
        points = None if is_symmetric else middles.astype(np.uint8)
    return Blocks(
        bits=bits,
        n_values=n_values,
        packed=quanta if bits == 8 else pack(quanta),
        scales=scales,
        zero_points=points,
        block=block,
    )


def _symmetric8(blocks: Floats) -> tuple[Bytes, Floats]:
    scales = _usable(np.abs(blocks).max(-1) / np.float32(127))
    return round_to(blocks, scales, np.float32(128), 255), scales


def search4(
    blocks: Floats,
    weights: Floats | np.float32 = _EVEN,
    *,
    is_symmetric: bool,
    shrinks: Sequence[float] = _SHRINKS,
) -> tuple[Floats, Floats]:
    """The best of a few scales and zero points, (rows, blocks) each, for blocks of 4 bits.

    The best have the least squared error, each value's times its weight: *weights* has the shape
    of *blocks* or one that fits it. First guesses come from a block's range; then the least-squares
    scale for the quanta that they give is tried.
    """
    shape = blocks.shape[:2]
    best_error = np.full(shape, np.inf, np.float32)
    best_scale, best_point = np.zeros(shape, np.float32), np.full(shape, 8, np.float32)
    for shrink in shrinks:
        scale, point = _guess(blocks, np.float32(shrink), is_symmetric=is_symmetric)
        for _ in range(_REFINEMENTS):
            quanta = round_to(blocks, scale, point[..., None], 15)
            centred = quanta.astype(np.float32) - point[..., None]
            error = (weights * np.square(centred * scale[..., None] - blocks)).sum(-1)
            better = error < best_error
            best_error[better] = error[better]
            best_scale[better], best_point[better] = scale[better], point[better]
            scale = _least_squares(blocks, centred, weights)
    return best_scale, best_point


def _least_squares(blocks: Floats, centred: Floats, weights: Floats | np.float32) -> Floats:
    """The scale that brings these quanta nearest to the values."""
    weighted = weights * centred
    products, squares = (weighted * blocks).sum(-1), (weighted * centred).sum(-1)
    scales = np.divide(products, squares, out=np.zeros_like(products), where=squares != 0)
    return _usable(scales)


def _guess(blocks: Floats, shrink: np.float32, *, is_symmetric: bool) -> tuple[Floats, Floats]:
    """Scales and zero points for a fraction of each block's range, (rows, blocks) each."""
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    if is_symmetric:
        # The value with the largest magnitude gets the quantum -8, whatever its sign.
        largest = np.where(-low > high, low, high)
        scale = _usable(shrink * largest / np.float32(-8))
        return scale, np.full(low.shape, 8, np.float32)
    scale = _usable(shrink * (high - low) / np.float32(15))
    point = np.round(-shrink * low / np.where(scale == 0, 1, scale))
    return scale, np.where(scale == 0, 8, np.clip(point, 0, 15)).astype(np.float32)


def _usable(scales: Floats) -> Floats:
    """The scales, with zero for those too small to invert; such blocks hold nothing but zeros."""
    return np.where(np.abs(scales) < _SMALLEST_SCALE, np.float32(0), scales)


def round_to(blocks: Floats, scales: Floats, points: Floats | np.float32, most: int) -> Bytes:
    """The quanta from 0 to *most* nearest to *blocks* (rows, blocks, values)."""
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    quanta = np.round(blocks * inverse[..., None]) + points
    rounded: Bytes = np.clip(quanta, 0, most).astype(np.uint8)
    return rounded
