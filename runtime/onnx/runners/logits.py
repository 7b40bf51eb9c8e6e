"""The logits of a run: where they are written, and how far two computations of them differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spillover.runtime.backend import Logits, Rows
from spillover.runtime.onnx.graph.layout import GraphLayout
from spillover.runtime.onnx.runners.runner import LogitsRows
from spillover.runtime.onnx.session import Binding, OnnxSession


def run_for_logits(
    session: OnnxSession,
    binding: Binding,
    layout: GraphLayout,
    rows: Sequence[Rows],
    logits: LogitsRows,
) -> None:
    """*logits* (sum of n_computed() of *rows*, n_vocab) is written by the graph itself, unless it
    returns logits that nobody wants: then the wanted ones are picked."""
    n_wanted = [n_computed(one) for one in rows]
    width, n_vocab = _n_positions(layout, rows), logits.shape[1]
    if layout.logits_form == "asked" or width == 1:
        n = sum(n_wanted)
        shape = (n, n_vocab) if layout.logits_form == "asked" else (n, 1, n_vocab)
        binding.write_to(layout.logits, logits[:n].reshape(shape))
        session.run(binding)
        return
    everything = np.empty((len(rows), width, n_vocab), dtype=logits.dtype)
    binding.write_to(layout.logits, everything)
    session.run(binding)
    place = 0
    for row, one, n in zip(everything, rows, n_wanted, strict=True):
        end = min(len(one.tokens), width)
        logits[place : place + n] = row[end - n : end]
        place += n


def n_computed(rows: Rows) -> int:
    """How many logits are computed of *rows*: those that are wanted, or the last ones in vain."""
    return max(rows.n_outputs, 1)


def _n_positions(layout: GraphLayout, rows: Sequence[Rows]) -> int:
    """For how many positions of each row the graph returns logits, where it is not asked for
    some."""
    if layout.logits_form == "last":
        return 1
    if layout.inputs.n_logits is not None:
        return max(map(n_computed, rows))
    return max(len(one.tokens) for one in rows)


def divergence(wanted: Logits, found: Logits) -> float:
    """Mean Kullback-Leibler divergence of the rows (n, n_vocab), in nats; NaN where *found*
    contains NaN."""
    a, b = _log_softmax(wanted), _log_softmax(found)
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
