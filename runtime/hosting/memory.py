"""The memory that models need, and what is free for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

from spillover.models import onnx_folder
from spillover.models.at_path import part_names
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import available_memory
from spillover.runtime.machine.memory_fit import COMPUTE_BYTES, KV_BYTES_PER_VALUE, least_bytes
from spillover.runtime.options import EngineOptions


def needed_bytes(path: Path, options: EngineOptions) -> int:
    """The least memory, in bytes, with which the model at *path* is loaded. Raises ModelError for a
    file that is no model."""
    try:
        if onnx_folder.is_onnx(path):  # its graph, which tells of the KV cache, is for a worker
            size, n_ctx_train, per_cell = onnx_folder.find(path).size_bytes, 0, 0.0
        else:
            header = read_header(path)
            size = sum(path.with_name(name).stat().st_size for name in part_names(path.name))
            if options.draft_model is not None and options.speculation != "off":
                size += options.draft_model.stat().st_size
            n_ctx_train = header.n_ctx_train
            per_cell = header.kv_bytes_per_cell(KV_BYTES_PER_VALUE[options.kv_cache_type])
    except (ModelFileError, OSError) as error:
        raise ModelError(str(error)) from error
    return least_bytes(
        options, size_bytes=size, n_ctx_train=n_ctx_train, kv_bytes_per_cell=per_cell
    )


def held_bytes(card: ModelCard) -> int:
    """The memory, in bytes, that a loaded model holds."""
    return card.size_bytes + card.kv_bytes + COMPUTE_BYTES


def free_memory(pids: Iterable[int]) -> int:
    """Bytes that another model may take beside the workers *pids*.

    The system counts the pages of a mapped file as available. Those of the workers are their
    weights: a model that took them would make the others read their files again and again.
    """
    mapped = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            mapped += getattr(psutil.Process(pid).memory_info(), "shared", 0)
    return available_memory() - mapped
