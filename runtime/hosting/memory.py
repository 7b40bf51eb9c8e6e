"""The memory that models need, and what is free for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil
from msgspec import structs

from spillover.models import onnx_folder
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.device_fit import COMPUTE_BYTES
from spillover.runtime.fit.model_shape import (
    GpuMemory,
    ModelShape,
    draft_shape,
    gguf_shape,
    gpu_memory_of,
    together,
)
from spillover.runtime.fit.placement import least_taken
from spillover.runtime.llama.embedding.plan import is_made_for_embedding
from spillover.runtime.machine.device import available_memory, memory_floor
from spillover.runtime.machine.llama_trial import llama_trial
from spillover.runtime.options import EngineOptions


def needed_bytes(path: Path, options: EngineOptions, gpu: GpuMemory | None = None) -> DeviceBytes:
    """The least memory with which the model at *path* is loaded, where so much is free on the GPUs.
    Raises ModelError for a file that is no model."""
    try:
        if onnx_folder.is_onnx(path):  # its graph, which tells of the KV cache, is for a worker
            size = onnx_folder.find(path).size_bytes
            shape = ModelShape(n_ctx_train=0, size_bytes=size, kv_bytes_per_cell=0.0)
        else:
            header = read_header(path)
            shape = gguf_shape(path, header)
            if options.n_gpu_layers != 0 and options.engine != "onnx":
                shape = structs.replace(shape, n_layers=header.n_layer + 1)
            if is_made_for_embedding(header):  # all of it is on the GPU, where there is one
                n_gpu_layers = -1 if options.n_gpu_layers is None else options.n_gpu_layers
                options = structs.replace(options, n_gpu_layers=n_gpu_layers, draft_model=None)
            draft = draft_shape(options)
            if draft is not None:
                shape = together(shape, draft)
    except (ModelFileError, OSError) as error:
        raise ModelError(str(error)) from error
    return least_taken(options, shape, gpu)


def held_bytes(card: ModelCard) -> DeviceBytes:
    """The memory that a loaded model holds."""
    if card.memory is not None and any(card.memory.gpus):
        return card.memory
    on_host = card.size_bytes + card.draft_model_bytes + card.kv_bytes + COMPUTE_BYTES
    return DeviceBytes(host=on_host)


def gpu_memory_in_all(cache_dir: Path | None) -> GpuMemory | None:
    """What the GPUs have that llama.cpp can use, as far as its trial has told."""
    gpus = llama_trial(cache_dir).gpus
    return gpu_memory_of(
        [
            {"is_gpu": True, "shares_memory": gpu.shares_memory, "free_bytes": gpu.total_bytes}
            for gpu in gpus
        ]
    )


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
