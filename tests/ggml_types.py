"""What llama.cpp's own library makes of its tensor types."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
import numpy.typing as npt
from llama_cpp import _ggml

_ROW = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """The first fields of ggml_type_traits (ggml.h)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _ROW),
    )


def random_rows(
    n_rows: int, n_values: int, kind: gguf.GGMLQuantizationType
) -> npt.NDArray[np.uint8]:
    """Made-up bytes of so many rows, which may mean infinities and NaN too, (rows, bytes)."""
    n_block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    shape = n_rows, n_values // n_block * n_bytes
    return np.random.RandomState(7).randint(0, 256, shape).astype(np.uint8)


def values(
    stored: npt.NDArray[np.uint8], kind: gguf.GGMLQuantizationType
) -> npt.NDArray[np.float32]:
    """What rows of bytes mean, (rows, values)."""
    if kind == gguf.GGMLQuantizationType.F32:
        return stored.view(np.float32)
    n_block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    found = np.empty((len(stored), stored.shape[1] // n_bytes * n_block), np.float32)
    function = _ggml.libggml.ggml_get_type_traits
    function.restype = ctypes.POINTER(_Traits)
    traits = function(ctypes.c_int(kind)).contents
    traits.to_float(stored.ctypes.data, found.ctypes.data, found.size)
    return found
