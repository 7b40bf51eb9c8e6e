"""What llama.cpp computes for the text of the tiny models."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np

from tests import tiny_models
from tests.onnx_sessions import Logits

GELU_ATOL = 0.01
"""llama.cpp reads its GELU from a table in half precision."""


def as_llama_cpp(gguf: Path) -> Logits:
    model = llama_cpp.Llama(
        str(gguf),
        n_ctx=256,
        n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        logits_all=True,
        verbose=False,
    )
    model.eval(tiny_models.IDS.tolist())
    logits = np.array(model.scores[: len(tiny_models.IDS)], np.float32)
    model.close()
    return logits
