"""Runs graphs on an accelerator: the KV cache stays where the library put it.

Each call returns new arrays on the device, which are the next call's past. Arrays are never
changed, so a copied sequence shares them at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.backend import Rows, SavedKv
from spillover.runtime.onnx.feeds import feeds
from spillover.runtime.onnx.graph.layout import CacheTensor, GraphLayout
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.runners.logits import n_computed, run_for_logits
from spillover.runtime.onnx.runners.packing import packed, unpack
from spillover.runtime.onnx.runners.runner import LogitsRows
from spillover.runtime.onnx.session import OnnxSession


class _Arrays(Struct, frozen=True):
    """The KV cache of a sequence, and the binding whose outputs it is, if it is: before 1.23 the
    arrays do not outlive the binding."""

    binding: Any
    arrays: list[Any]


class DeviceRunner:
    """See runtime/onnx/runners/runner.py. *device* is ONNX Runtime's name of it: cuda, dml, cpu."""

    def __init__(
        self, session: OnnxSession, layout: GraphLayout, device: str, *, n_seq: int, capacity: int
    ) -> None:
        self.capacity = capacity
        self.held = [0] * n_seq
        self._session = session
        self._layout = layout
        self._device = device
        self._caches: list[_Arrays | None] = [None] * n_seq

    def split(self, batch: Sequence[Rows]) -> list[list[int]]:
        return [[i] for i in range(len(batch))]

    def run(self, rows: Sequence[Rows], logits: LogitsRows) -> None:
        (only,) = rows
        layout, binding = self._layout, self._session.binding()
        arrays = feeds(layout.inputs, [only.tokens], [only.start], [n_computed(only)])
        binding.feed(arrays)
        past = self._past(only.seq)  # kept alive here, since the binding may not do it
        for cache, array in zip(layout.caches, past, strict=True):
            binding.raw.bind_ortvalue_input(cache.past, array)
            binding.raw.bind_output(cache.present, self._device)
        run_for_logits(self._session, binding, layout, rows, logits)
        binding.raw.clear_binding_inputs()
        # In the order in which they were bound; the logits were last.
        arrays = binding.raw.get_outputs()[: len(layout.caches)]
        self._caches[only.seq] = _Arrays(binding, arrays)
        self.held[only.seq] = only.start + len(only.tokens)

    def _past(self, seq: int) -> list[Any]:
        """The arrays of what *seq* holds, cut to its length if it has been cut since."""
        held, found = self.held[seq], self._caches[seq]
        caches = self._layout.caches
        if found is None:
            empty = (np.zeros(self._shape(cache, 0), self._dtype(cache)) for cache in caches)
            return [self._on_device(values) for values in empty]
        if found.arrays[0].shape()[caches[0].length_axis] == held:
            return found.arrays
        return [
            self._on_device(np.take(array.numpy(), range(held), axis=cache.length_axis))
            for cache, array in zip(caches, found.arrays, strict=True)
        ]

    def _on_device(self, values: npt.NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), self._device, 0)

    def _dtype(self, cache: CacheTensor) -> type[np.generic]:
        return self._session.dtype(cache.past)

    def _shape(self, cache: CacheTensor, n_tokens: int) -> list[int]:
        """The array of a sequence with *n_tokens*."""
        shape = [size or 0 for size in cache.shape]
        shape[cache.batch_axis], shape[cache.length_axis] = 1, n_tokens
        return shape

    def truncate(self, seq: int, n_tokens: int) -> None:
        if n_tokens == 0:
            self._caches[seq] = None
        self.held[seq] = n_tokens

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._caches[target] = self._caches[source]
        self.held[target] = n_tokens

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        positions = range(start, end)
        return packed(
            [
                np.take(array.numpy(), positions, axis=cache.length_axis)
                for cache, array in zip(self._layout.caches, self._past(seq), strict=True)
            ]
        )

    def append(self, seq: int, n_tokens: int, state: SavedKv) -> None:
        caches, past = self._layout.caches, self._past(seq)
        parts = [np.empty(self._shape(cache, n_tokens), self._dtype(cache)) for cache in caches]
        unpack(state, parts)
        arrays = [
            self._on_device(np.concatenate([array.numpy(), part], axis=cache.length_axis))
            for cache, array, part in zip(caches, past, parts, strict=True)
        ]
        self._caches[seq] = _Arrays(None, arrays)
        self.held[seq] += n_tokens
