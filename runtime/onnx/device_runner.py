"""Runs graphs on an accelerator: the KV cache stays where the library has put it.

Each call gives new arrays on the device, which are the next call's past. Nobody changes an array,
so a copied sequence begins with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spillover.runtime.backend import Rows
from spillover.runtime.onnx.feeds import feeds
from spillover.runtime.onnx.graph_layout import CacheTensor, GraphLayout
from spillover.runtime.onnx.last_logits import run_for_logits
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.runner import LogitsRows
from spillover.runtime.onnx.session import OnnxSession


class DeviceRunner:
    """See runtime/onnx/runner.py. *device* is ONNX Runtime's name of it: cuda, dml, cpu."""

    def __init__(
        self, session: OnnxSession, layout: GraphLayout, device: str, *, n_seq: int, capacity: int
    ) -> None:
        self.capacity = capacity
        self.held = [0] * n_seq
        self._session = session
        self._layout = layout
        self._device = device
        self._caches: list[list[Any]] = [[] for _ in range(n_seq)]
        self._binding = session.binding()

    def split(self, batch: Sequence[Rows]) -> list[list[int]]:
        return [[i] for i in range(len(batch))]

    def run(self, rows: Sequence[Rows], logits: LogitsRows) -> None:
        (only,) = rows
        layout, binding = self._layout, self._binding
        self._session.feed(binding, feeds(layout.inputs, [only.tokens], [only.start]))
        binding.clear_binding_outputs()
        for cache, past in zip(layout.caches, self._past(only.seq), strict=True):
            binding.bind_ortvalue_input(cache.past, past)
            binding.bind_output(cache.present, self._device)
        run_for_logits(self._session, binding, layout, rows, logits)
        # In the order in which they were bound; the logits came last.
        self._caches[only.seq] = binding.get_outputs()[: len(layout.caches)]
        self.held[only.seq] = only.start + len(only.tokens)

    def _past(self, seq: int) -> list[Any]:
        """The arrays of what *seq* holds, cut to its length where it was cut since."""
        held, caches = self.held[seq], self._caches[seq]
        if not caches:
            return [self._array(cache, np.zeros(self._shape(cache), self._dtype(cache)))
                    for cache in self._layout.caches]  # fmt: skip
        axis = self._layout.caches[0].length_axis
        if caches[0].shape()[axis] == held:
            return caches
        return [
            self._array(cache, np.take(value.numpy(), range(held), axis=cache.length_axis))
            for cache, value in zip(self._layout.caches, caches, strict=True)
        ]

    def _array(self, cache: CacheTensor, values: Any) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), self._device, 0)

    def _dtype(self, cache: CacheTensor) -> type[np.generic]:
        return self._session.dtype(cache.past)

    def _shape(self, cache: CacheTensor) -> list[int]:
        """Of a sequence without tokens."""
        shape = [size or 0 for size in cache.shape]
        shape[cache.batch_axis], shape[cache.length_axis] = 1, 0
        return shape

    def truncate(self, seq: int, n_tokens: int) -> None:
        if n_tokens == 0:
            self._caches[seq] = []
        self.held[seq] = n_tokens

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._caches[target] = self._caches[source]
        self.held[target] = n_tokens
