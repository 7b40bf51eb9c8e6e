"""The tokens of a calibration text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

N_CHUNK = 512
"""Tokens that are read together; each chunk begins anew."""
MOST_CHUNKS = 32
"""More text takes longer and changes little."""

TokenIds = npt.NDArray[np.int64]


def tokens_of(folder: Path, text: str) -> TokenIds:
    """The text by the tokenizer of a new model's folder."""
    from tokenizers import Tokenizer  # slow

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return np.asarray(tokenizer.encode(text).ids, np.int64)


def chunks_of(tokens: TokenIds, n_ctx: int, most: int = MOST_CHUNKS) -> list[TokenIds]:
    """At most *most* chunks from all parts of the text; only a text that is shorter than a chunk is
    taken whole."""
    n = min(N_CHUNK, n_ctx)
    n_whole = max(len(tokens) // n, 1)
    n_taken = min(n_whole, most)
    starts = [i * n_whole // n_taken * n for i in range(n_taken)]
    return [tokens[start : start + n] for start in starts]
