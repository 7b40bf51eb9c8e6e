"""How a local engine is set up: the only place of these defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

KvCacheType: TypeAlias = Literal["f16", "q8_0", "q4_0"]
SecondLayout: TypeAlias = Literal["auto", "on", "off"]
ExecutionProvider: TypeAlias = Literal[
    "auto", "cpu", "cuda", "tensorrt", "directml", "coreml", "openvino"
]


class EngineOptions(Struct, frozen=True, kw_only=True):
    """Settings of a LocalEngine. None means: chosen from the model and this device."""

    n_ctx: Annotated[int, Meta(ge=16, le=1_048_576)] | None = None
    """Most tokens of one sequence. None: what the model was trained for, as memory allows."""
    n_kv: Annotated[int, Meta(ge=16, le=8_388_608)] | None = None
    """KV cells shared by all sequences. None: n_ctx for each, as memory allows."""
    n_parallel: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Sequences that generate at the same time. None: from memory, at least 4."""
    n_threads: Annotated[int, Meta(ge=1, le=512)] | None = None
    """None: the physical cores that affinity and cgroup quota leave to this process."""
    adapt_threads: bool = True
    """Compute with fewer threads while other programs take cores (GGUF from 64 MiB, Linux). The
    rounding depends on the threads: without it, an answer does not depend on other programs."""
    n_gpu_layers: Annotated[int, Meta(ge=-1, le=10_000)] = -1
    """Layers on the GPU, where the library was built for one; -1 is all."""
    kv_cache_type: KvCacheType = "f16"
    execution_provider: ExecutionProvider = "auto"
    """Where an ONNX model runs, if the installed onnxruntime has it and it proves faster than the
    CPU. auto: whichever is fastest, TensorRT only where it is named."""
    max_queue: Annotated[int, Meta(ge=0, le=10_000)] = 32
    """Requests that may wait; one more is refused with EngineBusy."""
    max_gap_ms: Annotated[float, Meta(ge=20, le=60_000)] = 250.0
    """Largest pause that running streams may see while another request's prompt is read."""
    n_prefix_cached: Annotated[int, Meta(ge=0, le=128)] = 8
    """Finished sequences that are kept, while nobody needs their room, for the next turn."""
    prefix_cache_mb: Annotated[float, Meta(ge=0, le=1_048_576)] = 256.0
    """Memory for kept sequences while others run; beyond it they stay in the KV cache, where each
    step of the others takes a little longer for them."""
    use_extra_bufts: bool = True
    """Weight repacking of llama.cpp; switched off by itself after a crash at load."""
    second_layout: SecondLayout = "auto"
    """Weights of a GGUF model in memory twice, repacked and as the file has them, which may read
    prompts half as fast again. auto: where that was measured on this device and memory allows."""
    load_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    max_restarts: Annotated[int, Meta(ge=0, le=100)] = 5
    """Restarts of a dying worker within ten minutes before the engine gives up."""
    cache_dir: Path | None = None
    """Where measurements of this device are remembered. None: the user's cache folder."""
