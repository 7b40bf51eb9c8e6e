"""A llama_batch whose arrays are numpy's: filled by slices, without a Python loop per token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import Rows
from spillover.runtime.llama.library import lib


class LlamaBatch:
    """Room for *n_rows* tokens, each of one sequence."""

    def __init__(self, n_rows: int, n_positions: int) -> None:
        self.n_rows = n_rows
        self._token = np.zeros(n_rows, dtype=np.int32)
        self._pos = np.zeros(n_rows, dtype=np.int32)
        self._seq = np.zeros(n_rows, dtype=np.int32)
        self._n_seq = np.ones(n_rows, dtype=np.int32)
        self._logits = np.zeros(n_rows, dtype=np.int8)
        self._all_positions = np.arange(n_positions, dtype=np.int32)
        # llama.cpp wants a pointer per token to its list of sequence ids; each list is one long.
        step = self._seq.itemsize
        self._seq_pointers = np.arange(n_rows, dtype=np.uintp) * step + self._seq.ctypes.data
        self.struct: Any = lib.llama_batch()
        self._point("token", self._token)
        self._point("pos", self._pos)
        self._point("n_seq_id", self._n_seq)
        self._point("seq_id", self._seq_pointers)
        self._point("logits", self._logits)

    def _point(self, name: str, array: npt.NDArray[Any]) -> None:
        pointer_type = type(getattr(self.struct, name))
        setattr(self.struct, name, ctypes.cast(array.ctypes.data, pointer_type))

    def fill(self, batch: Sequence[Rows]) -> list[int]:
        """Write the rows and return the row numbers of the outputs."""
        outputs: list[int] = []
        row = 0
        for rows in batch:
            n = len(rows.tokens)
            end = row + n
            if end > self.n_rows:
                raise ValueError(f"a batch holds {self.n_rows} rows, not {end}")
            self._token[row:end] = rows.tokens
            self._pos[row:end] = self._all_positions[rows.start : rows.start + n]
            self._seq[row:end] = rows.seq
            self._logits[row:end] = 0
            row = end
            wanted = range(end - rows.n_outputs, end)
            self._logits[wanted.start : end] = 1
            outputs += wanted
        self.struct.n_tokens = row
        return outputs

    def ask_from(self, first: int) -> None:
        """Make every row of the batch from *first* on an output."""
        self._logits[first : self.struct.n_tokens] = 1
