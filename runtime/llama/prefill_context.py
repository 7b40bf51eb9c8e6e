"""Reads prompts with a second copy of the weights that is laid out for prefill.

llama.cpp repacks weights so that decoding, which multiplies them by few rows, is fast. Its fastest
kernels for many rows need the file's own layout, which makes a prefill up to 1.5 times as fast. So
where memory allows, prompts are read in a separate context on the file's own pages, and its new KV
cells are copied to the main context after each slice, at about ten microseconds per token. The main
context always holds everything; this one never holds anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from spillover.runtime.backend import DecodeAborted, KvFull, Rows
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.model import LlamaModel

N_CELLS = 4096
"""KV cells of the second context: the deeper in a text, the less the layout of the weights
matters."""

_LEAST_ROWS = 32
"""The kernels for decoding read fewer rows just as fast."""

_MOST_FETCHED = 16
"""How many cells are worth fetching from the main context for each token that is read."""


class PrefillContext:
    """Owns the second copy of the model and its context."""

    def __init__(self, path: Path, config: LlamaConfig, abort_flag: AbortFlag) -> None:
        self._model = LlamaModel(path, n_gpu_layers=0, use_extra_bufts=False)
        config = msgspec.structs.replace(config, n_kv=min(config.n_kv, N_CELLS))
        try:
            self.context = LlamaContext(self._model, config, abort_flag)
        except BaseException:
            self._model.close()
            raise
        self._held: dict[int, int] = {}  # by sequence: how many of its first tokens are here

    def is_for(self, batch: Sequence[Rows]) -> bool:
        """Whether a batch is read faster here: enough prompt tokens and no decode rows."""
        n_rows = sum(len(rows.tokens) for rows in batch)
        if n_rows < _LEAST_ROWS or any(len(rows.tokens) == 1 for rows in batch):
            return False
        n_cells = sum(rows.start + len(rows.tokens) for rows in batch)
        n_missing = sum(max(rows.start - self._held.get(rows.seq, 0), 0) for rows in batch)
        return n_cells <= self.context.n_kv and n_missing <= _MOST_FETCHED * n_rows

    def read(self, batch: Sequence[Rows], main: LlamaContext) -> list[int] | None:
        """Evaluate *batch* and copy its new cells to *main*; return the rows of the outputs, which
        are here. Return None, with nothing read, when there is no room here.

        Raises KvFull when *main* has no room, DecodeAborted, DecodeFailed.
        """
        if not all(self._fetch(rows, main) for rows in batch):
            self.clear()
            return None
        try:
            outputs = self.context.decode(batch)
        except KvFull:
            self.clear()
            return None
        except DecodeAborted:
            self.clear()
            raise
        for rows in batch:
            self._hand_over(rows, batch, main)
        return outputs

    def _fetch(self, rows: Rows, main: LlamaContext) -> bool:
        """Hold exactly what comes before *rows*."""
        held = self.keep(rows.seq, rows.start)
        if held < rows.start:
            part = main.save_part(rows.seq, held, rows.start)
            if not self.context.append_part(rows.seq, held, part):
                return False
        self._held[rows.seq] = rows.start
        return True

    def _hand_over(self, rows: Rows, batch: Sequence[Rows], main: LlamaContext) -> None:
        end = rows.start + len(rows.tokens)
        part = self.context.save_part(rows.seq, rows.start, end)
        if not main.append_part(rows.seq, rows.start, part):
            for read in batch:
                main.keep(read.seq, read.start)
            self.clear()
            raise KvFull
        self._held[rows.seq] = end
        if rows.wants_logits:
            self.keep(rows.seq, 0)  # the prompt has been read; the others need not look past it

    def keep(self, seq: int, n_tokens: int) -> int:
        """Hold at most the first *n_tokens* of *seq*; how many are held."""
        held = self._held.get(seq, 0)
        if held <= n_tokens:
            return held
        self._held[seq] = self.context.keep(seq, n_tokens)
        return self._held[seq]

    def clear(self) -> None:
        """Hold nothing, not even the remains of an aborted call."""
        for seq in self._held:
            self.context.keep(seq, 0)
        self._held.clear()

    def close(self) -> None:
        self.context.close()
        self._model.close()
