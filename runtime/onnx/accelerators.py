"""The execution providers, besides the CPU's, that an onnxruntime wheel may include."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from spillover.runtime.options import ExecutionProvider


class Accelerator(Struct, frozen=True, kw_only=True):
    """Something that may run a graph faster than the CPU's own kernels."""

    key: ExecutionProvider
    name: str
    providers: tuple[str, ...]
    """ONNX Runtime's names. Nodes that the first cannot run go to the next, and finally to the
    CPU."""
    kv_device: str
    """ONNX Runtime's name of the device that holds the KV cache."""
    is_tried_unasked: bool = True


ACCELERATORS = (
    Accelerator(key="cuda", name="CUDA", providers=("CUDAExecutionProvider",), kv_device="cuda"),
    # It builds an engine for each new shape, and a growing KV cache has a new shape at each token.
    Accelerator(
        key="tensorrt",
        name="TensorRT",
        providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        kv_device="cuda",
        is_tried_unasked=False,
    ),
    Accelerator(
        key="directml", name="DirectML", providers=("DmlExecutionProvider",), kv_device="cpu"
    ),
    Accelerator(
        key="coreml", name="CoreML", providers=("CoreMLExecutionProvider",), kv_device="cpu"
    ),
    Accelerator(
        key="openvino", name="OpenVINO", providers=("OpenVINOExecutionProvider",), kv_device="cpu"
    ),
)


def to_try(wanted: ExecutionProvider, available: Sequence[str]) -> list[Accelerator]:
    """The accelerators that the wheel supports and *wanted* allows."""
    return [
        accelerator
        for accelerator in ACCELERATORS
        if accelerator.providers[0] in available
        and (wanted == accelerator.key or (wanted == "auto" and accelerator.is_tried_unasked))
    ]
