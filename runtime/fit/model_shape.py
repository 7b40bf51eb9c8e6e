"""What of a model decides how much memory it takes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from spillover.models.at_path import part_names
from spillover.models.gguf_header import GgufHeader, read_header
from spillover.runtime.options import EngineOptions, KvCacheType

KV_BYTES_PER_VALUE: dict[KvCacheType, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}

_BLOCK = 32
"""Values of a block of the smaller formats; a head must be a whole number of them."""
_ONE_LATENT = ("deepseek2",)
"""Architectures whose keys and values are one, which llama.cpp keeps in f16 only."""


class GpuMemory(Struct, frozen=True, kw_only=True):
    """Of the GPUs over which llama.cpp distributes a model's layers."""

    free: tuple[int, ...]
    """Bytes on each of them, in llama.cpp's order."""
    is_shared: bool = False
    """It is the host's memory, as with integrated GPUs."""

    @property
    def free_bytes(self) -> int:
        return sum(self.free)

    @property
    def own(self) -> tuple[int, ...]:
        """Bytes on each that has memory of its own."""
        return () if self.is_shared else self.free

    def layers_on_each(self, n_layers: int) -> list[int]:
        """How many of *n_layers* each GPU gets: llama.cpp gives out whole layers, in proportion to
        the free memory (load_tensors in its llama-model.cpp)."""
        ends, total = list(accumulate(self.free)), self.free_bytes
        each = [0] * len(self.free)
        for i in range(n_layers):
            each[min(bisect_right(ends, i * total / n_layers), len(each) - 1)] += 1
        return each

    def room_for(self, n_layers: int, left_bytes: int) -> int:
        """The most bytes that *n_layers* may have together, if every GPU holds those that it gets
        and *left_bytes* beside them."""
        rooms = [
            max(free - left_bytes, 0) * n_layers // n
            for free, n in zip(self.free, self.layers_on_each(n_layers), strict=True)
            if n
        ]
        return min(rooms, default=0)


def gpu_memory_of(devices: Sequence[Mapping[str, Any]]) -> GpuMemory | None:
    """Of those of *devices*, as ggml describes them, over which llama.cpp distributes layers:
    GPUs, and where there are others, none that shares the host's memory. None: there is none."""
    gpus = [each for each in devices if each["is_gpu"]]
    own = [each for each in gpus if not each["shares_memory"]]
    free = tuple(each["free_bytes"] for each in own or gpus)
    return GpuMemory(free=free, is_shared=not own) if any(free) else None


class ModelShape(Struct, frozen=True, kw_only=True):
    """Sizes of a model; bytes."""

    n_ctx_train: int
    size_bytes: int
    """Of the weights."""
    kv_bytes_per_cell: float
    """In the first of *kv_formats*."""
    kv_formats: tuple[KvCacheType, ...] = ("f16",)
    """Formats that the KV cache may have unasked, the best one first."""
    n_layers: int = 0
    """Layers that can be on a GPU, the output among them; 0: there is none."""
    shares_cells: bool = True
    """See BackendInfo."""
    n_embd: int = 0
    """Width of the activations; 0: unknown."""
    is_gguf: bool = False
    """llama.cpp reads the weights before it makes a context, and may repack them."""

    def cell_bytes(self, kv_format: KvCacheType) -> float:
        """Of one token in a KV cache of this format."""
        return self.kv_bytes_per_cell * KV_BYTES_PER_VALUE[kv_format] / KV_BYTES_PER_VALUE["f16"]

    def compute_bytes(self, n_batch: int, n_kv: int) -> int:
        """What a call of *n_batch* tokens takes for its intermediate values, with *n_kv* cells: as
        llama.cpp reports its buffers, sixteen rows of activations and a mask in f16."""
        return n_batch * (64 * self.n_embd + 2 * n_kv)


def gguf_shape(path: Path, header: GgufHeader) -> ModelShape:
    """The shape of the GGUF file *path*, all its parts included. Raises OSError."""
    return ModelShape(
        n_ctx_train=header.n_ctx_train or 4096,
        size_bytes=sum(path.with_name(name).stat().st_size for name in part_names(path.name)),
        kv_bytes_per_cell=header.kv_bytes_per_cell(KV_BYTES_PER_VALUE["f16"]),
        kv_formats=("f16", "q8_0") if _takes_blocks(header) else ("f16",),
        n_embd=header.n_embd,
        is_gguf=True,
    )


def draft_shape(options: EngineOptions) -> ModelShape | None:
    """The shape of the model that proposes tokens; None: none does. Raises ModelFileError,
    OSError."""
    path = options.draft_model
    if path is None or options.speculation == "off":
        return None
    return gguf_shape(path, read_header(path))


def together(shape: ModelShape, draft: ModelShape) -> ModelShape:
    """The shape of two models that both hold every cell."""
    return structs.replace(
        shape,
        size_bytes=shape.size_bytes + draft.size_bytes,
        kv_bytes_per_cell=shape.kv_bytes_per_cell + draft.kv_bytes_per_cell,
        kv_formats=tuple(one for one in shape.kv_formats if one in draft.kv_formats),
    )


def _takes_blocks(header: GgufHeader) -> bool:
    """Whether the KV cache may be in a format of blocks. llama.cpp then needs flash attention, for
    which keys and values must be equally wide."""
    key, value = header.head_widths
    is_plain = header.architecture not in _ONE_LATENT
    return is_plain and key == value > 0 and key % _BLOCK == 0
