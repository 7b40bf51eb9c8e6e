"""The tokens of a calibration text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from spillover.quantize.onnx_export.errors import ExportError
from spillover.runtime.machine.device import available_memory

N_CHUNK = 512
"""Tokens that are read together; each chunk begins anew."""
MOST_CHUNKS = 32
"""More text takes longer and changes little."""
_FEWEST_TOKENS = 64
_MEMORY_SHARE = 4
"""A quarter of the free memory may hold what a text becomes."""

TokenIds = npt.NDArray[np.int64]


def tokens_of(folder: Path, text: str) -> TokenIds:
    """The text by the tokenizer of a new model's folder. Each chunk begins as a text does, such as
    with BOS. Raises ExportError, also for a text that is too short."""
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
    if len(tokens) < _FEWEST_TOKENS:
        raise ExportError(
            f"the calibration text has {len(tokens)} tokens: it needs {_FEWEST_TOKENS}, and some "
            "thousands are better"
        )
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


def affordable_chunks(token_bytes: int) -> int:
    """How many chunks may be read when each token takes *token_bytes*: at least one."""
    n = affordable_tokens(token_bytes) // N_CHUNK
    return min(max(n, 1), MOST_CHUNKS)


def affordable_tokens(token_bytes: int) -> int:
    """How many tokens may be held when each takes *token_bytes*."""
    return available_memory() // _MEMORY_SHARE // token_bytes
