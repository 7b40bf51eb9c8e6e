"""Exported graphs compute what Hugging Face's implementation does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.models.catalogue import default_model, find
from spillover.quantize.onnx_export.export import Exported, export
from spillover.quantize.onnx_export.options import ExportOptions
from tests import tiny_models
from tests.onnx_sessions import Logits, divergence, masked_logits, ragged_logits
from tests.storyteller import KEPT_ROWS, STORYTELLER, story_ids

FP32 = ExportOptions(weights="fp32")


def exported(source: Path, target: Path, options: ExportOptions) -> Exported:
    return export(source, target, options, lambda n_done, n_all: None)


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_every_architecture_gives_hugging_faces_logits(
    name: str, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    source = tiny_models.write(tmp_path / "hf", tiny_models.CONFIGS[name])
    n_ctx = tiny_models.N_CTX.get(name)
    exported(source, tmp_path / "out", ExportOptions(weights="fp32", n_ctx=n_ctx))
    found = ragged_logits(tmp_path / "out" / "model.onnx", tiny_models.IDS, [17, 1, 5, 13])
    np.testing.assert_allclose(found, hf_logits[name], atol=2e-4)


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_the_genai_interface_computes_the_same(
    name: str, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    source = tiny_models.write(tmp_path / "hf", tiny_models.CONFIGS[name])
    n_ctx = tiny_models.N_CTX.get(name)
    options = ExportOptions(weights="fp32", interface="genai", n_ctx=n_ctx)
    exported(source, tmp_path / "out", options)
    found = masked_logits(tmp_path / "out" / "model.onnx", tiny_models.IDS)
    np.testing.assert_allclose(found, hf_logits[name], atol=2e-4)


def test_the_storyteller_gives_hugging_faces_logits(
    tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    exported(STORYTELLER, tmp_path / "out", FP32)
    found = ragged_logits(tmp_path / "out" / "model.onnx", story_ids(), [9, 20])[KEPT_ROWS]
    np.testing.assert_allclose(found, hf_logits["storyteller"], atol=2e-4)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (ExportOptions(weights="fp16"), 1e-5),
        (ExportOptions(weights="int8"), 2e-4),
        (ExportOptions(weights="int8", half=True), 3e-4),
        (ExportOptions(weights="int4"), 0.02),
        (ExportOptions(weights="int4", is_symmetric=True), 0.03),
        (ExportOptions(weights="int4", head_bits=4), 0.03),
    ],
)
def test_smaller_weights_stay_near(
    options: ExportOptions, most: float, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    exported(STORYTELLER, tmp_path / "out", options)
    found = ragged_logits(tmp_path / "out" / "model.onnx", story_ids(), [30])[KEPT_ROWS]
    assert 0 < divergence(hf_logits["storyteller"], found) < most


def test_the_bundled_onnx_model_has_the_bundled_gguf_models_weights(tmp_path: Path) -> None:
    options = ExportOptions(weights="int8")
    exported(default_model().path, tmp_path / "out", options)
    fresh = ragged_logits(tmp_path / "out" / "model.onnx", story_ids(), [20])
    bundled = ragged_logits(find("storyteller-onnx").path, story_ids(), [20])
    np.testing.assert_array_equal(bundled, fresh)


def test_scales_that_fp16_cannot_hold_stay_exact(tmp_path: Path) -> None:
    config = tiny_models.CONFIGS["llama"]
    tiny_models.write(tmp_path / "hf", config)
    tensors = tiny_models.weights(config)
    for name, values in tensors.items():
        # Together they compute what they did.
        factor = {"v_proj.weight": 1e-7, "o_proj.weight": 1e7}.get(
            ".".join(name.split(".")[-2:]), 1
        )
        tensors[name] = values * np.float32(factor)
    tiny_models.write_safetensors(tmp_path / "hf" / "model.safetensors", tensors)
    logits = []
    for kind in (FP32, ExportOptions(weights="int8")):
        folder = tmp_path / str(kind.weights)
        exported(tmp_path / "hf", folder, kind)
        logits.append(ragged_logits(folder / "model.onnx", tiny_models.IDS, [48]))
    assert divergence(logits[0], logits[1]) < 0.1
