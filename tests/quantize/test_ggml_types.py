"""Tensors of every type of a GGUF file mean what they mean to llama.cpp."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from spillover.models.ggml_types import GGML_TYPES
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from tests import ggml_types, tiny_gguf, tiny_models

NOT_WEIGHTS = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}
"""No file holds weights in these."""
NOT_WRITTEN = {"Q2_0"}
"""The package gguf does not know these."""
NOT_READ = {"Q1_0"}
CONFIG = {
    **tiny_models.CONFIGS["llama"],
    "hidden_size": 256,
    "intermediate_size": 256,
    "head_dim": 64,
    "num_hidden_layers": 1,
}
MATRIX = "blk.0.ffn_up.weight"
KINDS = sorted({kind.name for kind in GGML_TYPES.values()} - NOT_WEIGHTS - NOT_WRITTEN)


def stored(kind: str) -> np.typing.NDArray[np.uint8]:
    return ggml_types.random_rows(256, 256, gguf.GGMLQuantizationType[kind])


def written(kind: str, path: Path) -> Path:
    return tiny_gguf.write_model(path, CONFIG, raw={MATRIX: (stored(kind), kind)})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_READ])
def test_a_tensor_is_read_as_llama_cpp_reads_it(kind: str, tmp_path: Path) -> None:
    source = GgufSource(written(kind, tmp_path / "m.gguf"))
    wanted = ggml_types.values(stored(kind), gguf.GGMLQuantizationType[kind])
    with np.errstate(all="ignore"):
        found = source.values("layers.0.mlp.up_proj.weight")
        part = source.values("layers.0.mlp.up_proj.weight", 7, 19)
    assert np.isfinite(wanted).any()
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(part, wanted[7:19])


@pytest.mark.parametrize("kind", NOT_READ)
def test_a_type_that_cannot_be_read_is_named(kind: str, tmp_path: Path) -> None:
    source = GgufSource(written(kind, tmp_path / "m.gguf"))
    with pytest.raises(ExportError, match=kind):
        source.values("layers.0.mlp.up_proj.weight")
