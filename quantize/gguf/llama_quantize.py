"""Calls llama_model_quantize and hears its log, the only place where it says what it does."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spillover.models.ggml_types import GGML_TYPES
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.file_types import FILE_TYPES
from spillover.quantize.gguf.recipe import QuantizeOrder
from spillover.runtime.llama.library import LOG, lib, start_library

if TYPE_CHECKING:
    from spillover.quantize.gguf.imatrix_file import Floats

_MAX_BUFFER_BYTES = 64 << 20
"""Rows that llama.cpp holds at once; its default is 8 GiB."""
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}


def call_llama(order: QuantizeOrder, read: Callable[[str], None], *, is_dry_run: bool) -> None:
    """Do as *order* says, and call *read* with each line of the log. Raises QuantizeError."""
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


def _means(order: QuantizeOrder) -> dict[str, Floats]:
    """The importance of each input of each matrix."""
    if not order.recipe.has_imatrix:
        return {}
    import numpy as np  # slow

    from spillover.quantize.gguf.imatrix_file import read_imatrix

    if order.recipe.imatrix is not None:
        return read_imatrix(order.recipe.imatrix).means()
    # For a plan, and where no type uses it, it is enough that there is one.
    return {"none": np.ones(1, np.float32)}


def _imatrix(means: dict[str, Floats]) -> Any:
    """An array that ends with an empty entry. It holds no references to *means*."""
    array = (lib.llama_model_imatrix_data * (len(means) + 1))()
    for place, (name, values) in zip(array, means.items(), strict=False):
        place.name, place.size = name.encode(), values.size
        place.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return array
