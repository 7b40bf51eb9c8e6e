"""What a model takes of the host's memory and of the GPUs'."""

from __future__ import annotations

import pytest
from msgspec import structs

from spillover.runtime.device_bytes import DeviceBytes, together
from spillover.runtime.fit.context_fit import fit_context
from spillover.runtime.fit.device_fit import COMPUTE_BYTES
from spillover.runtime.fit.model_shape import GpuMemory, ModelShape
from spillover.runtime.fit.placement import GPU_LEFT_BYTES, least_taken, taken
from spillover.runtime.options import EngineOptions

GIB = 2**30
SHAPE = ModelShape(
    n_ctx_train=32_768,
    size_bytes=14 * GIB,
    kv_bytes_per_cell=24_576,
    n_layers=25,
    n_embd=2048,
    is_gguf=True,
)
FIT = fit_context(EngineOptions(), SHAPE, 8 * GIB)


def test_layers_and_their_cells_are_on_one_device_each() -> None:
    gpu = GpuMemory(free=(12 * GIB, 4 * GIB))
    found = taken(SHAPE, structs.replace(FIT, n_gpu_layers=20), gpu)
    layer = (SHAPE.size_bytes + FIT.kv_bytes) // 25
    compute = SHAPE.compute_bytes(FIT.n_batch, FIT.n_kv)
    expected = (5 * layer + COMPUTE_BYTES, 15 * layer + compute, 5 * layer + compute)
    for n_bytes, wanted in zip((found.host, *found.gpus), expected, strict=True):
        assert n_bytes == pytest.approx(wanted, abs=32)
    on_gpu = taken(SHAPE, structs.replace(FIT, n_gpu_layers=-1), gpu)
    assert on_gpu.host == COMPUTE_BYTES
    assert taken(SHAPE, structs.replace(FIT, n_gpu_layers=0), gpu).gpus == (0, 0)


def test_memory_that_a_gpu_shares_is_the_hosts_once() -> None:
    shared = GpuMemory(free=(30 * GIB,), is_shared=True)
    for gpu in (shared, None):
        found = taken(SHAPE, FIT, gpu)
        assert found == DeviceBytes(host=SHAPE.size_bytes + FIT.kv_bytes + COMPUTE_BYTES)
        assert least_taken(EngineOptions(), SHAPE, gpu).gpus == ()
    assert shared.own == ()


def test_the_least_that_a_model_needs_depends_on_what_is_free_on_the_gpu() -> None:
    options = EngineOptions()
    needed = {gib: least_taken(options, SHAPE, GpuMemory(free=(gib * GIB,))) for gib in (0, 8, 24)}
    assert needed[0].gpus == (0,)
    assert needed[0].host > SHAPE.size_bytes
    assert needed[24].host == COMPUTE_BYTES
    assert needed[24].gpus[0] > SHAPE.size_bytes + GPU_LEFT_BYTES
    assert 4 * GIB < needed[8].host < 8 * GIB
    assert 6 * GIB < needed[8].gpus[0] <= 8 * GIB
    fixed = least_taken(
        EngineOptions(deterministic=True).settled(), SHAPE, GpuMemory(free=(8 * GIB,))
    )
    assert fixed.gpus == (0,), "all layers are there, or none"
    asked = least_taken(EngineOptions(n_gpu_layers=-1), SHAPE, GpuMemory(free=(8 * GIB,)))
    assert asked.gpus[0] > 14 * GIB


def test_memory_is_compared_device_by_device() -> None:
    one, other = DeviceBytes(host=5, gpus=(3, 0)), DeviceBytes(host=1, gpus=(4,))
    assert one.beyond(other) == DeviceBytes(host=4, gpus=(0, 0))
    assert together((one, other)) == DeviceBytes(host=6, gpus=(7, 0))
    assert together(()) == DeviceBytes()
    assert other.shares_a_device(DeviceBytes(gpus=(1,)))
    assert not one.shares_a_device(DeviceBytes(gpus=(0, 1)))
