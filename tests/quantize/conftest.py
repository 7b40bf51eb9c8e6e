"""What the reference implementation computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.onnx_sessions import Logits


@pytest.fixture(scope="session")
def hf_logits() -> dict[str, Logits]:
    """transformers' logits by model: make_hf_logits.py wrote them."""
    return dict(np.load(Path(__file__).parent / "hf_logits.npz"))
