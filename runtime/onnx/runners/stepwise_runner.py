"""Runs graphs that were exported for one new token at a time: prompts are read token by token.

Older exporters traced the decoder with one token, so a size of one may have become a constant, or
the mask may not order new tokens. Such a graph accepts more tokens without an error and computes
something else, so each graph is tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spillover.runtime.backend import DecodeFailed, Logits, Rows, SavedKv
from spillover.runtime.onnx.runners.logits import divergence
from spillover.runtime.onnx.runners.runner import LogitsRows, Runner

_N_SLICE, _N_SLICES = 4, 4
_MOST_DIVERGENCE = 0.15
"""In nats. Dynamic int8 products cause some thousandths, a mask without order some tenths."""


class StepwiseRunner:
    """See runtime/onnx/runners/runner.py."""

    def __init__(self, inner: Runner) -> None:
        self._inner = inner
        self.capacity = inner.capacity
        self.held = inner.held

    def split(self, batch: Sequence[Rows]) -> list[list[int]]:
        return [[i] for i in range(len(batch))]

    def run(self, rows: Sequence[Rows], logits: LogitsRows) -> None:
        (only,) = rows
        try:
            for i, token in enumerate(only.tokens):
                one = np.array([token], dtype=np.int32)
                self._inner.run([Rows(only.seq, only.start + i, one, True)], logits)
        except BaseException:
            self._inner.truncate(only.seq, only.start)
            raise

    def truncate(self, seq: int, n_tokens: int) -> None:
        self._inner.truncate(seq, n_tokens)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._inner.copy(source, target, n_tokens)

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        return self._inner.save(seq, start, end)

    def append(self, seq: int, n_tokens: int, state: SavedKv) -> None:
        self._inner.append(seq, n_tokens, state)


def reads_slices(runner: Runner, n_vocab: int, dtype: type[np.generic]) -> bool:
    """Whether tokens read together, at the start or later, have the same logits as tokens read one
    by one. Leaves the cache empty."""
    tokens = np.random.default_rng(0).integers(0, n_vocab, _N_SLICES * _N_SLICE, dtype=np.int32)
    wanted = _logits(StepwiseRunner(runner), tokens, n_vocab, dtype)
    try:
        found = _logits(runner, tokens, n_vocab, dtype)
    except DecodeFailed:
        runner.truncate(0, 0)
        return False
    return divergence(wanted, found) < _MOST_DIVERGENCE


def _logits(
    runner: Runner, tokens: np.typing.NDArray[np.int32], n_vocab: int, dtype: type[np.generic]
) -> Logits:
    """After each slice (_N_SLICES, n_vocab)."""
    out = np.empty((_N_SLICES, n_vocab), dtype=dtype)
    for i in range(_N_SLICES):
        start = i * _N_SLICE
        rows = Rows(0, start, tokens[start : start + _N_SLICE], True)
        runner.run([rows], out[i : i + 1])
    runner.truncate(0, 0)
    return out.astype(np.float32)
