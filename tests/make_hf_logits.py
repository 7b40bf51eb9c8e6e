"""Writes hf_logits.npz with PyTorch and transformers, which no test needs:

    python -m tests.make_hf_logits

The logits of every tiny model for its text, and of the storyteller for a story, in fp32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]  # not installed for the tests
from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]  # the same

from tests import tiny_models
from tests.storyteller import KEPT_ROWS, STORYTELLER, story_ids

HERE = Path(__file__).parent


def logits(folder: Path, ids: np.typing.NDArray[np.int64]) -> np.typing.NDArray[np.float32]:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        found = model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
    return np.asarray(found, np.float32)


def main() -> None:
    found = {}
    for name, config in tiny_models.CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = logits(tiny_models.write(Path(folder), config), tiny_models.IDS)
    found["storyteller"] = logits(STORYTELLER, story_ids())[KEPT_ROWS]
    np.savez_compressed(HERE / "hf_logits.npz", **found)  # type: ignore[arg-type]  # numpy's stub
    print({name: (rows.shape, float(rows.std())) for name, rows in found.items()})


if __name__ == "__main__":
    main()
