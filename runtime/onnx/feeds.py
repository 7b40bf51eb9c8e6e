"""The arrays that a graph needs for a call, besides its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import Tokens
from spillover.runtime.onnx.graph.layout import GraphInputs

Feeds: TypeAlias = dict[str, npt.NDArray[Any]]


def feeds(
    inputs: GraphInputs,
    tokens: Sequence[Tokens],
    pasts: Sequence[int],
    n_wanted: Sequence[int] | None = None,
) -> Feeds:
    """By input name. Row i has *pasts[i]* tokens and gets the new *tokens[i]*; shorter rows are
    padded on the right, which only a graph with query_lengths can do. Logits are wanted of the last
    *n_wanted[i]* of them, one if not given."""
    n_rows = len(tokens)
    counts = np.array([len(new) for new in tokens], dtype=np.int64)
    before = np.array(pasts, dtype=np.int64)
    totals = before + counts
    width, longest = int(counts.max()), int(totals.max())
    ids = np.zeros((n_rows, width), dtype=np.int64)
    for row, new in enumerate(tokens):
        ids[row, : len(new)] = new
    arrays: Feeds = {inputs.ids: ids}
    if inputs.mask is not None:
        arrays[inputs.mask] = (np.arange(longest) < totals[:, None]).astype(np.int64)
    if inputs.positions is not None:
        positions = before[:, None] + np.arange(width)
        arrays[inputs.positions] = np.minimum(positions, totals[:, None] - 1)
    if inputs.seqlens_k is not None:
        arrays[inputs.seqlens_k] = (totals - 1).astype(np.int32)
    if inputs.total_length is not None:
        arrays[inputs.total_length] = np.array(longest, dtype=np.int32)
    if inputs.query_lengths is not None:
        arrays[inputs.query_lengths] = counts.astype(np.int32)
    if inputs.logits_rows is not None:
        ends = np.arange(n_rows) * width + counts
        arrays[inputs.logits_rows] = ends - 1 if n_wanted is None else _before(ends, n_wanted)
    if inputs.n_logits is not None:
        arrays[inputs.n_logits] = np.array(max(n_wanted or (1,)), dtype=np.int64)
    if inputs.write_indices is not None:
        arrays[inputs.write_indices] = before
    if inputs.kv_lengths is not None:
        arrays[inputs.kv_lengths] = totals
    if inputs.branch is not None:
        arrays[inputs.branch] = np.array([bool(before.any())])
    return arrays


def _before(ends: npt.NDArray[np.int64], counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """The last *counts[i]* positions before each of *ends*, in order."""
    ranges = [np.arange(end - n, end) for end, n in zip(ends, counts, strict=True)]
    return np.concatenate(ranges)
