"""This project's runtime decodes rows of different lengths with each family's exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions, Interface
from spillover.runtime.backend import Rows
from spillover.runtime.options import EngineOptions
from tests import tiny_gguf, tiny_models
from tests.loading import opened_onnx
from tests.onnx_sessions import Logits

OPTIONS = EngineOptions(n_parallel=2, n_ctx=64, n_threads=1)
IDS = tiny_models.IDS.astype(np.int32)


@pytest.mark.parametrize(
    "name", ["qwen3", "gemma2", "gemma3-capped", "smollm3", "phi3-long", "phi4-mini", "granite"]
)
@pytest.mark.parametrize("interface", ["ragged", "genai"])
def test_two_rows_of_a_family_decode_together(
    name: str, interface: Interface, tmp_path: Path, hf_logits: dict[str, Logits]
) -> None:
    source = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name])
    options = ExportOptions(weights="fp32", interface=interface)
    export(source, tmp_path / "out", options, lambda n_done, n_all: None)
    backend = opened_onnx(tmp_path / "out", OPTIONS).backend
    for row, n_read in enumerate((30, 13)):
        backend.decode([Rows(row, 0, IDS[:n_read], True)])
    for step in range(4):
        ends = (30 + step, 13 + step)
        backend.decode([Rows(row, end, IDS[end : end + 1], True) for row, end in enumerate(ends)])
        for index, end in enumerate(ends):
            found = backend.logits(index)
            np.testing.assert_allclose(found, hf_logits[name][end], atol=4e-4)
    backend.close()
