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
    """*logits* (len(rows), n_vocab) is written by the graph itself, unless it returns the logits of
    every position: then the last ones are picked."""
    width = max(len(one.tokens) for one in rows)
    n_vocab = logits.shape[1]
    if layout.logits_form == "all" and layout.inputs.n_logits is None and width > 1:
        everything = np.empty((len(rows), width, n_vocab), dtype=logits.dtype)
        binding.write_to(layout.logits, everything)
        session.run(binding)
        for i, one in enumerate(rows):
            logits[i] = everything[i, len(one.tokens) - 1]
        return
    shape = (len(rows), n_vocab) if layout.logits_form == "asked" else (len(rows), 1, n_vocab)
    binding.write_to(layout.logits, logits[: len(rows)].reshape(shape))
    session.run(binding)


def divergence(wanted: Logits, found: Logits) -> float:
    """Mean Kullback-Leibler divergence of the rows (n, n_vocab), in nats; NaN where *found*
    contains NaN."""
    a, b = _log_softmax(wanted), _log_softmax(found)
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
