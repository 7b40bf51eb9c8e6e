"""The bundled model's Hugging Face folder, and a text of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller" / "hf"
STORY = (
    "Once upon a time, in a quiet forest, there lived a clever fox named Ruby. Ruby loved to look "
    "at the stars. One day Ruby met a small mouse who had lost its way home."
)
KEPT_ROWS = slice(3, None, 5)
"""The rows of the story's logits that the fixture holds."""


def story_ids() -> npt.NDArray[np.int64]:
    tokenizer = Tokenizer.from_file(str(STORYTELLER / "tokenizer.json"))
    return np.asarray(tokenizer.encode(STORY).ids, np.int64)
