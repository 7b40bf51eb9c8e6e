"""The memory that models need, and what is free for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

from spillover.models import onnx_folder
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.device_fit import COMPUTE_BYTES, least_bytes
from spillover.runtime.fit.model_shape import ModelShape, draft_shape, gguf_shape, together
from spillover.runtime.llama.embedding.plan import is_made_for_embedding
from spillover.runtime.machine.device import available_memory, memory_floor
from spillover.runtime.options import EngineOptions


def needed_bytes(path: Path, options: EngineOptions) -> int:
    """The least memory, in bytes, with which the model at *path* is loaded. Raises ModelError for a
    file that is no model."""
    try:
        if onnx_folder.is_onnx(path):  # its graph, which tells of the KV cache, is for a worker
            size = onnx_folder.find(path).size_bytes
            shape = ModelShape(n_ctx_train=0, size_bytes=size, kv_bytes_per_cell=0.0)
        else:
            header = read_header(path)
            shape = gguf_shape(path, header)
            draft = None if is_made_for_embedding(header) else draft_shape(options)
            if draft is not None:
                shape = together(shape, draft)
    except (ModelFileError, OSError) as error:
        raise ModelError(str(error)) from error
    return least_bytes(options, shape)


def held_bytes(card: ModelCard) -> int:
    """The memory, in bytes, that a loaded model holds."""
    return card.size_bytes + card.draft_model_bytes + card.kv_bytes + COMPUTE_BYTES


def free_memory(pids: Iterable[int]) -> int:
    """Bytes that another model may take beside the workers *pids* and the floor that is left to
    other programs.

    The system counts the pages of a mapped file as available. Those of the workers are their
    weights: a model that took them would make the others read their files again and again.
    """
    mapped = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            mapped += getattr(psutil.Process(pid).memory_info(), "shared", 0)
    return available_memory() - memory_floor() - mapped


def resident_bytes(pid: int | None) -> int:
    """What a worker has of its memory so far; 0 where there is none."""
    with contextlib.suppress(psutil.Error):
        return 0 if pid is None else int(psutil.Process(pid).memory_info().rss)
    return 0
