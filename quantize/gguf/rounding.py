"""Rounds rows of weights to a type of llama.cpp, by its own functions, and back."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.models.ggml_types import GGML_TYPES
from spillover.quantize.gguf.recipe import bits_of
from spillover.runtime.llama.library import lib

Floats = npt.NDArray[np.float32]

_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}


def rounded(rows: Floats, kind: str, importance: Floats, *, n_threads: int) -> Floats:
    """What *rows* (rows, inputs) are once they are stored as *kind*, whose blocks divide them.
    *importance* is the mean square of each input, (inputs,)."""
    import gguf  # slow
    from gguf.quants import dequantize

    rows, importance = (np.ascontiguousarray(each, np.float32) for each in (rows, importance))
    n_rows, n_values = rows.shape
    row_bytes = n_values // bits_of(kind).n_values * bits_of(kind).n_bytes
    stored = np.empty((n_rows, row_bytes), np.uint8)
    quantize_chunk = _quantize_chunk()

    def fill(start: int, stop: int) -> None:
        quantize_chunk(
            _TYPE_IDS[kind],
            rows[start:].ctypes.data,
            stored[start:].ctypes.data,
            0,
            stop - start,
            n_values,
            importance.ctypes.data,
        )

    edges = [n_rows * i // n_threads for i in range(n_threads + 1)]
    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(fill, edges[:-1], edges[1:]))
    values: Floats = dequantize(stored, gguf.GGMLQuantizationType[kind])
    return values


def _quantize_chunk() -> Any:
    """ggml_quantize_chunk (ggml.h), which threads may call at the same time."""
    function = lib._lib.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return function
