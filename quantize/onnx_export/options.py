"""Options of an export."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from msgspec import Struct

Weights = Literal["faithful", "int4", "int8", "fp16", "fp32"]
Interface = Literal["ragged", "genai"]
KvCacheType = Literal["float", "int8"]
BlockSize = Literal[32, 64, 128]
HeadBits = Literal[8, 4]

MAX_N_CTX = 32_768
"""The longest context that is exported by default: its rotary table has a row for each position."""


class ExportOptions(Struct, frozen=True, kw_only=True):
    """The choices of one export."""

    weights: Weights | None = None
    """Format of the layers; None: faithful for a file that is quantized already, else int4.

    faithful: int4 for matrices that the file stores in exactly these blocks, int8 for all others.
    With int4 and int8 the embedding and the output head have head_bits."""
    head_bits: HeadBits = 8
    is_symmetric: bool = False
    """int4 blocks without zero points: a little smaller and less exact."""
    block: BlockSize = 32
    """Weights that share a scale, with int4 and int8; more of them are smaller and less exact."""
    eight_bits: tuple[str, ...] = ()
    """Patterns of the matrices that keep 8 bits with int4, such as "layers.0.*.v_proj"."""
    calibration: str = ""
    """A text: int4 matrices are rounded for what they multiply while the model reads it. Empty:
    they are rounded for themselves."""
    half: bool | None = None
    """Compute and keep the KV cache in fp16, for GPUs; None: with fp16 weights only."""
    kv_cache: KvCacheType = "float"
    """float: as the graph computes; int8: a quarter of fp32's memory, with scales that are measured
    while the model reads the calibration text. ONNX Runtime 1.32, ragged interface."""
    interface: Interface = "ragged"
    """ragged: the inputs with which this project's runtime is fastest; genai: those of
    onnxruntime-genai, with a genai_config.json."""
    n_ctx: int | None = None
    """Longest context; None: the model's, at most MAX_N_CTX."""
    tokenizer: Path | None = None
    """A folder to take the tokenizer's files from, for a GGUF file; None: from the file itself."""
    external_data: bool | None = None
    """Keep the weights in a second file; None: when they are larger than 32 MiB."""

    def keeps_8(self, name: str) -> bool:
        """Whether the weight *name* keeps 8 bits with int4."""
        matrix = name.removesuffix(".weight")
        return any(fnmatchcase(matrix, pattern) for pattern in self.eight_bits)

    @property
    def is_half(self) -> bool:
        return self.weights == "fp16" if self.half is None else self.half
