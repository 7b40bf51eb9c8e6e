"""Sums up the inputs of a model's matrices while llama.cpp computes, by its evaluation callback.

The callback gets ggml's own tensors. Their layout (ggml.h) is checked before any is read.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.quantize.errors import QuantizeError
from spillover.runtime.llama.library import lib

_N_DIMENSIONS, _N_PARAMETERS, _N_SOURCES, _NAME_BYTES = 4, 16, 10, 64
_F32 = 0
_MAX_OPERATIONS = 256
_FEWEST_ROWS = 16
"""As llama.cpp's own tool: matrices that see fewer tokens at once see no text."""

Doubles = npt.NDArray[np.float64]


class _Tensor(ctypes.Structure):
    """ggml_tensor (ggml.h)."""


_Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * _N_DIMENSIONS),
    ("nb", ctypes.c_size_t * _N_DIMENSIONS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * _N_PARAMETERS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * _N_SOURCES),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _NAME_BYTES),
)


class MatmulInputs:
    """Sums of squares of the inputs of each matrix, and how many tokens it saw. Set *callback* as
    a context's cb_eval, and keep this object as long as the context. Raises QuantizeError."""

    def __init__(self) -> None:
        self.sums: dict[str, Doubles] = {}
        """(experts, inputs) by name of a matrix."""
        self.counts: dict[str, Doubles] = {}
        """(experts,) by name of a matrix."""
        self.callback = lib.ggml_backend_sched_eval_callback(self._on_tensor)
        self.error: Exception | None = None
        """What went wrong in the callback, which ends the computation."""
        self._matmul, self._experts = _operations()
        self._is_checked = False
        self._last: tuple[int, Doubles, int] | None = None

    def begin(self) -> None:
        """Expect another call of llama_decode, which may use the same tensors again."""
        self._last = None

    def _on_tensor(self, address: int, asks: bool, _user_data: object) -> bool:
        """*asks*: whether the tensor is wanted; otherwise it was computed. False ends the
        computation."""
        try:
            tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
            if asks:
                return self._wants(address, tensor)
            self._add(tensor)
        except Exception as error:  # an exception cannot pass through llama.cpp
            self.error = error
            return False
        return True

    def _wants(self, address: int, tensor: _Tensor) -> bool:
        if not self._is_checked:
            _check_layout(address)
            self._is_checked = True
        if tensor.op not in (self._matmul, self._experts):
            return False
        weight, inputs = tensor.src[0].contents, tensor.src[1].contents
        if not weight.name.startswith(b"blk.") or inputs.type != _F32:
            return False
        if tensor.op == self._experts:
            return True
        if self._last is not None and self._last[0] == ctypes.addressof(inputs):
            # Queries, keys and values have the same inputs, and so have gate and up.
            self._add_last(weight)
            return False
        return bool(inputs.ne[1] >= _FEWEST_ROWS)

    def _add(self, tensor: _Tensor) -> None:
        weight, inputs = tensor.src[0].contents, tensor.src[1].contents
        if tensor.op == self._experts:
            self._add_experts(weight, inputs, tensor.src[2].contents)
            return
        values = _values(inputs, np.float32)
        rows = values.reshape(-1, values.shape[-1])
        self._last = ctypes.addressof(inputs), _squares(rows), len(rows)
        self._add_last(weight)

    def _add_last(self, weight: _Tensor) -> None:
        assert self._last is not None
        _, squares, n_rows = self._last
        sums, counts = self._entry(weight, 1, len(squares))
        sums[0] += squares
        counts[0] += n_rows

    def _add_experts(self, weight: _Tensor, inputs: _Tensor, chosen: _Tensor) -> None:
        """Matrices of experts: *chosen* says which of them each token asks, (tokens, asked)."""
        ids = _values(chosen, np.int32).reshape(chosen.ne[1], chosen.ne[0])
        values = _values(inputs, np.float32).reshape(inputs.ne[2], inputs.ne[1], inputs.ne[0])
        sums, counts = self._entry(weight, int(weight.ne[2]), int(inputs.ne[0]))
        for place in range(ids.shape[1]):
            rows = values[:, place % values.shape[1]]
            for expert in np.unique(ids[:, place]):
                seen = rows[ids[:, place] == expert]
                sums[expert] += _squares(seen)
                counts[expert] += len(seen)

    def _entry(self, weight: _Tensor, n_experts: int, n_inputs: int) -> tuple[Doubles, Doubles]:
        name = weight.name.decode("utf-8", "replace")
        if name not in self.sums:
            self.sums[name] = np.zeros((n_experts, n_inputs))
            self.counts[name] = np.zeros(n_experts)
        return self.sums[name], self.counts[name]


def _squares(rows: npt.NDArray[np.float32]) -> Doubles:
    """The sum of squares of each column."""
    sums: Doubles = np.einsum("ij,ij->j", rows, rows).astype(np.float64)
    return sums


def _values(tensor: _Tensor, kind: type[Any]) -> npt.NDArray[Any]:
    """A view of a tensor in this process's memory, the last dimension first."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    n_bytes = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * (n_bytes + np.dtype(kind).itemsize - 1)).from_address(tensor.data)
    return np.ndarray(shape, kind, memory, 0, strides)


def _operations() -> tuple[int, int]:
    """The numbers of MUL_MAT and MUL_MAT_ID, which differ between versions of ggml."""
    name_of = lib._lib.ggml_op_name
    name_of.restype = ctypes.c_char_p
    numbers: dict[bytes, int] = {}
    for number in range(_MAX_OPERATIONS):
        name = name_of(ctypes.c_int(number))
        numbers[name] = number
        if name == b"MUL_MAT_ID":
            return numbers[b"MUL_MAT"], number
    raise _other_layout()


def _check_layout(address: int) -> None:
    """Raises QuantizeError where ggml's tensors are not as _Tensor says."""
    get_name, n_elements = lib._lib.ggml_get_name, lib._lib.ggml_nelements
    get_name.restype, n_elements.restype = ctypes.c_void_p, ctypes.c_int64
    tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
    is_same = get_name(ctypes.c_void_p(address)) == address + _Tensor.name.offset
    if not is_same or n_elements(ctypes.c_void_p(address)) != np.prod(tuple(tensor.ne)):
        raise _other_layout()


def _other_layout() -> QuantizeError:
    return QuantizeError(
        "this version of llama.cpp has other tensors than are known here: use a version of "
        "llama-cpp-python that Spillover was tested with"
    )
