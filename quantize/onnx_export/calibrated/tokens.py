"""The tokens of a calibration text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from spillover.quantize.onnx_export.errors import ExportError

N_CHUNK = 512
"""Tokens that are read together; each chunk begins anew."""
MOST_CHUNKS = 32
"""More text takes longer and changes little."""

TokenIds = npt.NDArray[np.int64]


def tokens_of(folder: Path, text: str) -> TokenIds:
    """The text by the tokenizer of a new model's folder. Each chunk begins as a text does, such as
    with BOS. Raises ExportError."""
    from tokenizers import Tokenizer  # slow

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ExportError(f"{path.name} of the model cannot be read: {error}") from error
    # It may say to cut every text at the length of the texts of its training.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    opening, tokens = (np.asarray(tokenizer.encode(t).ids, np.int64) for t in ("", text))
    n_common = min(len(opening), len(tokens), N_CHUNK)
    n_before = int((opening[:n_common] == tokens[:n_common]).cumprod().sum())
    for start in range(0, len(tokens), N_CHUNK):
        chunk = tokens[start : start + n_before]
        chunk[:] = opening[: len(chunk)]
    return tokens


def chunks_of(tokens: TokenIds, n_ctx: int, most: int = MOST_CHUNKS) -> list[TokenIds]:
    """At most *most* chunks from all parts of the text; only a text that is shorter than a chunk is
    taken whole."""
    n = min(N_CHUNK, n_ctx)
    n_whole = max(len(tokens) // n, 1)
    n_taken = min(n_whole, most)
    starts = [i * n_whole // n_taken * n for i in range(n_taken)]
    return [tokens[start : start + n] for start in starts]
