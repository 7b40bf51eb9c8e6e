"""Weights in blocks: what they stand for, and how near it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from spillover.quantize.onnx_export import blocks as blocks_module
from spillover.quantize.onnx_export.blocks import BLOCK, Blocks, Floats, join
from tests.onnx_sessions import product_of_blocks

MATRICES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
    elements=st.floats(-100, 100, width=32),
)


def quantize(matrix: Floats, *, bits: int, is_symmetric: bool, size: int = BLOCK) -> Blocks:
    n_rows, n_values = matrix.shape
    return blocks_module.quantize(
        lambda start, stop: matrix[start:stop],
        (n_rows, n_values),
        bits=bits,
        is_symmetric=is_symmetric,
        block=size,
    )


def steps(matrix: Floats, bits: int, *, is_symmetric: bool) -> Floats:
    """The distance of two quanta that plain rounding would have in each block."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK)))
    blocks = padded.reshape(len(matrix), -1, BLOCK)
    if is_symmetric:
        largest = np.abs(blocks).max(-1) / np.float32(2 ** (bits - 1) - 1)
        return np.asarray(largest, np.float32)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    return np.asarray((high - low) / np.float32(2**bits - 1), np.float32)


@given(matrix=MATRICES, kind=st.sampled_from([(8, True), (4, True), (4, False)]))
def test_no_block_is_worse_than_plain_rounding(matrix: Floats, kind: tuple[int, bool]) -> None:
    bits, is_symmetric = kind
    blocks = quantize(matrix, bits=bits, is_symmetric=is_symmetric)
    assert blocks.values().shape == matrix.shape
    error = np.pad(blocks.values() - matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK)))
    root = np.sqrt(np.square(error.reshape(len(matrix), -1, BLOCK)).sum(-1))
    most = steps(matrix, bits, is_symmetric=is_symmetric) * np.float32(np.sqrt(BLOCK)) * 0.87
    assert (root <= most + 1e-4).all()


@given(matrix=MATRICES, bits=st.sampled_from([4, 8]))
def test_zeros_stay_zeros(matrix: Floats, bits: int) -> None:
    matrix[:, ::3] = 0
    values = quantize(matrix, bits=bits, is_symmetric=bits == 8).values()
    assert (values[:, ::3] == 0).all()


@given(matrix=MATRICES)
def test_values_that_fit_are_exact(matrix: Floats) -> None:
    quanta = np.clip(np.round(matrix), -127, 127)
    quanta[:, 0::BLOCK] = 127
    np.testing.assert_array_equal(quantize(quanta, bits=8, is_symmetric=True).values(), quanta)


@pytest.mark.parametrize(("bits", "is_symmetric"), [(8, True), (4, True), (4, False)])
@pytest.mark.parametrize(("n_values", "size"), [(32, 32), (96, 32), (80, 32), (16, 32), (160, 64)])
def test_the_operator_reads_the_blocks_as_we_do(
    bits: int, is_symmetric: bool, n_values: int, size: int
) -> None:
    matrix = np.random.RandomState(3).standard_normal((24, n_values)).astype(np.float32)
    blocks = quantize(matrix, bits=bits, is_symmetric=is_symmetric, size=size)
    found = product_of_blocks(np.eye(n_values, dtype=np.float32), blocks)
    np.testing.assert_allclose(found, blocks.values().T, atol=1e-5)


def test_symmetric_and_asymmetric_blocks_join() -> None:
    matrix = np.random.RandomState(4).standard_normal((8, 64)).astype(np.float32)
    parts = [quantize(matrix, bits=4, is_symmetric=flag) for flag in (True, False)]
    joined = join(parts)
    np.testing.assert_array_equal(
        joined.values(), np.concatenate([part.values() for part in parts])
    )


def test_large_matrices_are_quantized_in_pieces_that_do_not_matter() -> None:
    matrix = np.random.RandomState(5).standard_normal((300, 16_384)).astype(np.float32)
    whole = quantize(matrix, bits=4, is_symmetric=False)
    row = quantize(matrix[299:], bits=4, is_symmetric=False)
    np.testing.assert_array_equal(whole.values()[299:], row.values())


def test_the_range_search_is_better_than_rounding_to_the_extremes() -> None:
    matrix = np.random.RandomState(6).standard_t(4, (64, 512)).astype(np.float32)
    blocks = matrix.reshape(64, -1, BLOCK)
    low, high = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
    scale = (high - low) / 15
    point = np.round(-low / scale)
    plain = (np.clip(np.round(blocks / scale) + point, 0, 15) - point) * scale
    searched = quantize(matrix, bits=4, is_symmetric=False).values()
    assert np.square(searched - matrix).sum() < 0.95 * np.square(plain - blocks).sum()


def test_zero_points_are_packed_two_in_a_byte() -> None:
    points = np.array([[1, 2, 3]], np.uint8)
    blocks = Blocks(
        bits=4,
        n_values=96,
        packed=np.zeros((1, 3, 16), np.uint8),
        scales=np.ones((1, 3), np.float32),
        zero_points=points,
    )
    packed = blocks.packed_zero_points()
    assert packed is not None
    assert packed.tolist() == [[0x21, 0x03]]
