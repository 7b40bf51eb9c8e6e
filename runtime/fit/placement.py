"""Which layers of a model are on the GPUs, and what it takes of each device's memory then."""

from __future__ import annotations

from msgspec import structs

from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.fit.context_fit import ContextFit
from spillover.runtime.fit.device_fit import COMPUTE_BYTES, least_fit
from spillover.runtime.fit.model_shape import GpuMemory, ModelShape
from spillover.runtime.options import EngineOptions

GPU_LEFT_BYTES = 256 * 2**20
"""Of each GPU's memory, for its driver and other programs."""


def layers_in(gpu: GpuMemory, fit: ContextFit, shape: ModelShape) -> int:
    """How many layers' weights and KV cells fit into the memory of the GPUs; -1: all."""
    left = GPU_LEFT_BYTES + shape.compute_bytes(fit.n_batch, fit.n_kv)
    layer_bytes = (shape.size_bytes + fit.kv_bytes) / shape.n_layers
    sizes = range(shape.n_layers, 0, -1)
    n = next((n for n in sizes if n * layer_bytes <= gpu.room_for(n, left)), 0)
    return -1 if n == shape.n_layers else n


def taken(
    shape: ModelShape, fit: ContextFit, gpu: GpuMemory | None, gpu_left_bytes: int = 0
) -> DeviceBytes:
    """What a model takes of each device: llama.cpp keeps the cells of a layer beside its weights,
    and computes with them where they are. *gpu_left_bytes*: what is left beside that on each GPU
    that it uses."""
    n_bytes, n_all = shape.size_bytes + fit.kv_bytes, shape.n_layers
    if gpu is None or gpu.is_shared or not n_all:
        return DeviceBytes(host=n_bytes + COMPUTE_BYTES)
    n = n_all if fit.n_gpu_layers < 0 else min(fit.n_gpu_layers, n_all)
    beside = shape.compute_bytes(fit.n_batch, fit.n_kv) + gpu_left_bytes
    return DeviceBytes(
        host=n_bytes * (n_all - n) // n_all + COMPUTE_BYTES,
        gpus=tuple(
            n_bytes * here // n_all + beside if here else 0 for here in gpu.layers_on_each(n)
        ),
    )


def least_taken(options: EngineOptions, shape: ModelShape, gpu: GpuMemory | None) -> DeviceBytes:
    """What a model takes with the least KV cache and as many layers on the GPUs as that memory
    holds. It is loaded with fewer of them, too, where less is free there and the host holds the
    others."""
    fit, wanted = least_fit(options, shape), options.n_gpu_layers
    if gpu is not None and shape.n_layers and wanted is None:
        n = layers_in(gpu, fit, shape)
        wanted = 0 if options.deterministic and n > 0 else n  # all of them or none
    fit = structs.replace(fit, n_gpu_layers=-1 if wanted is None else wanted)
    return taken(shape, fit, gpu, GPU_LEFT_BYTES)
