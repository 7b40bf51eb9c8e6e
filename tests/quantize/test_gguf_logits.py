"""Graphs made of GGUF files compute what llama.cpp computes, and what Hugging Face does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from tests import tiny_gguf, tiny_models
from tests.llama_logits import GELU_ATOL, as_llama_cpp
from tests.onnx_sessions import Logits, ragged_logits

OTHERS_THAN_HUGGING_FACES = {
    *("mistral", "qwen2-windows", "phi3"),
    *("gemma2-scaled", "gemma3-scaled", "smollm3-chosen"),
}
"""llama.cpp ignores these windows, and no key of a GGUF file says so of scores and positions."""


def as_onnx(gguf: Path, name: str) -> Logits:
    options = ExportOptions(weights="fp32", n_ctx=tiny_models.N_CTX.get(name))
    export(gguf, gguf.parent / "out", options, lambda n_done, n_all: None)
    return ragged_logits(gguf.parent / "out" / "model.onnx", tiny_models.IDS, [17, 1, 30])


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_a_gguf_file_gives_llama_cpps_logits(name: str, tmp_path: Path) -> None:
    gguf = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name])
    atol = GELU_ATOL if name.startswith("gemma") else 5e-4
    np.testing.assert_allclose(as_onnx(gguf, name), as_llama_cpp(gguf), atol=atol)


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS.keys() - OTHERS_THAN_HUGGING_FACES))
def test_a_gguf_file_gives_the_original_models_logits(
    name: str, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    gguf = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name])
    np.testing.assert_allclose(as_onnx(gguf, name), hf_logits[name], atol=4e-4)


@pytest.mark.parametrize("name", ["llama-biased", "qwen2", "qwen3", "gemma2", "gemma3", "granite"])
def test_queries_keys_and_values_may_be_one_matrix(
    name: str, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    config = tiny_models.CONFIGS[name]
    gguf = tiny_gguf.write_model(tmp_path / "m.gguf", config, is_fused=True)
    np.testing.assert_allclose(as_onnx(gguf, name), hf_logits[name], atol=4e-4)
    atol = GELU_ATOL if name.startswith("gemma") else 5e-4
    np.testing.assert_allclose(as_llama_cpp(gguf), hf_logits[name], atol=atol)
