"""What the reference implementation computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def hf_logits() -> dict[str, npt.NDArray[np.float32]]:
    """transformers' logits by model: make_hf_logits.py wrote them."""
    return dict(np.load(Path(__file__).parent / "hf_logits.npz"))
