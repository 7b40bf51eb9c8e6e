"""Calls llama_model_quantize. Its log is the only place where it says what it does."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import GgufHeader, TensorInfo, read_header
from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.file_types import FILE_TYPES
from spillover.quantize.gguf.imatrix_file import read_imatrix
from spillover.quantize.gguf.recipe import Plan, PlannedTensor, QuantizeOrder
from spillover.runtime.llama.library import LOG, lib, start_library

_MAX_BUFFER_BYTES = 64 << 20
"""Rows that llama.cpp holds at once; its default is 8 GiB."""
_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\] (\S+) +- \[.*\], type = +(\w+), (.*)")
_BECOMES = re.compile(r"\((\w+)\)$")
_FALLS_BACK = re.compile(r"warning: (\S+) +- ncols .*required for type +(\w+)\)")
_NEEDS_IMATRIX = "will require an imatrix"
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}


def plan(order: QuantizeOrder, progress: Progress) -> Plan:
    """What quantize() would make of the file. Raises QuantizeError."""
    planned: dict[str, str] = {}
    wanted: dict[str, str] = {}
    needs_imatrix = False

    def read(line: str) -> None:
        nonlocal needs_imatrix
        if found := _TENSOR.match(line):
            becomes = _BECOMES.search(found[5])
            planned[found[3]] = (becomes[1] if becomes else found[4]).upper()
        elif found := _FALLS_BACK.match(line):
            wanted[found[1]] = found[2].upper()
        needs_imatrix |= _NEEDS_IMATRIX in line

    _call(order, read, is_dry_run=True)
    header = read_header(order.source)
    if planned.keys() != {tensor.name for tensor in header.tensors}:
        raise QuantizeError(
            "llama.cpp does not say what it would make of each tensor: use a version of "
            "llama-cpp-python that Spillover was tested with"
        )
    return _plan(header, planned, wanted, needs_imatrix=needs_imatrix)


def quantize(order: QuantizeOrder, progress: Progress) -> None:
    """Write the order's target. Raises QuantizeError."""

    def read(line: str) -> None:
        if found := _TENSOR.match(line):
            progress("quantizing", int(found[1]), int(found[2]))

    _call(order, read, is_dry_run=False)


def _plan(
    header: GgufHeader, planned: dict[str, str], wanted: dict[str, str], *, needs_imatrix: bool
) -> Plan:
    tensors = tuple(
        PlannedTensor(
            name=tensor.name,
            shape=tensor.shape,
            stored=_type_name(tensor),
            planned=planned[tensor.name],
            wanted=wanted.get(tensor.name, planned[tensor.name]),
        )
        for tensor in header.tensors
    )
    return Plan(tensors=tensors, needs_imatrix=needs_imatrix, header_bytes=header.data_offset)


def _type_name(tensor: TensorInfo) -> str:
    kind = GGML_TYPES.get(tensor.type_id)
    if kind is None:
        raise QuantizeError(
            f"{tensor.name[:80]!r} has the type {tensor.type_id}, which is not known here"
        )
    return kind.name


def _call(order: QuantizeOrder, read: Callable[[str], None], *, is_dry_run: bool) -> None:
    start_library()
    params = lib.llama_model_quantize_default_params()
    params.nthread = order.n_threads
    params.ftype = FILE_TYPES[order.recipe.file_type]
    params.allow_requantize = True  # the plan was checked
    params.dry_run = is_dry_run
    params.max_buf_size = _MAX_BUFFER_BYTES
    params.tt_overrides = _overrides(order)
    params.kv_overrides = _metadata(order.metadata)
    means = _means(order)
    if means:
        params.imatrix = _imatrix(means)
    with _reading_log(read):
        code = lib.llama_model_quantize(
            str(order.source).encode(), str(order.target).encode(), ctypes.byref(params)
        )
    if code:
        raise QuantizeError(
            f"llama.cpp cannot quantize {order.source}: {LOG.tail() or 'no reason given'}"
        )


@contextmanager
def _reading_log(read: Callable[[str], None]) -> Generator[None]:
    """Call *read* with each line of the log; llama.cpp writes them in pieces."""
    line = ""

    def listen(piece: str) -> None:
        nonlocal line
        *whole, line = (line + piece).split("\n")
        for each in whole:
            read(each)

    LOG.listener = listen
    try:
        yield
    finally:
        LOG.listener = None


def _overrides(order: QuantizeOrder) -> Any:
    pairs = order.recipe.tensors
    array = (lib.llama_model_tensor_override * (len(pairs) + 1))()
    for place, (pattern, kind) in zip(array, pairs, strict=False):
        place.pattern, place.type = pattern.encode(), _TYPE_IDS[kind]
    return array


def _metadata(metadata: dict[str, str | int]) -> Any:
    array = (lib.llama_model_kv_override * (len(metadata) + 1))()
    for place, (key, value) in zip(array, metadata.items(), strict=False):
        place.key = key.encode()
        if isinstance(value, int):
            place.tag, place.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            place.tag, place.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return array


def _means(order: QuantizeOrder) -> dict[str, npt.NDArray[np.float32]]:
    """The importance of each input of each matrix."""
    if order.recipe.imatrix is not None:
        return read_imatrix(order.recipe.imatrix).means()
    # For a plan it is enough that there will be one.
    return {"none": np.ones(1, np.float32)} if order.recipe.is_calibrated else {}


def _imatrix(means: dict[str, npt.NDArray[np.float32]]) -> Any:
    """An array that ends with an empty entry. It holds no references to *means*."""
    array = (lib.llama_model_imatrix_data * (len(means) + 1))()
    for place, (name, values) in zip(array, means.items(), strict=False):
        place.name, place.size = name.encode(), values.size
        place.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return array
