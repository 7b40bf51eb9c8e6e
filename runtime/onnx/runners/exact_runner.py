"""Runs graphs whose KV inputs are as long as the sequence: plain attention, one row at a time.

A call reads the past from one buffer and writes past and present to another; then the two are
swapped. The buffers' memory is lazy, so their full size costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.backend import Rows, SavedKv
from spillover.runtime.onnx.feeds import feeds
from spillover.runtime.onnx.graph.layout import CacheTensor, GraphLayout
from spillover.runtime.onnx.runners.lazy_memory import LazyMemory
from spillover.runtime.onnx.runners.logits import n_computed, run_for_logits
from spillover.runtime.onnx.runners.packing import packed, unpack
from spillover.runtime.onnx.runners.runner import LogitsRows
from spillover.runtime.onnx.session import OnnxSession


class _Place(Struct, frozen=True):
    """The place of a cache tensor in a buffer."""

    cache: CacheTensor
    dtype: type[np.generic]
    start: int
    end: int

    def shape(self, n_tokens: int) -> list[int]:
        axes = list(self.cache.shape)
        axes[self.cache.batch_axis] = 1
        axes[self.cache.length_axis] = n_tokens
        return [size or 0 for size in axes]

    def view(self, memory: LazyMemory, n_tokens: int) -> npt.NDArray[Any]:
        """(outer, tokens, inner)."""
        shape, axis = self.shape(n_tokens), self.cache.length_axis
        outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
        n_bytes = outer * n_tokens * inner * np.dtype(self.dtype).itemsize
        flat = memory.bytes[self.start : self.start + n_bytes].view(self.dtype)
        return flat.reshape((outer, n_tokens, inner))


class ExactRunner:
    """See runtime/onnx/runners/runner.py."""

    def __init__(
        self, session: OnnxSession, layout: GraphLayout, *, n_seq: int, capacity: int
    ) -> None:
        self.capacity = capacity
        self.held = [0] * n_seq
        self._session = session
        self._layout = layout
        self._places = _places(session, layout, capacity)
        size = self._places[-1].end if self._places else 0
        self._buffers = [LazyMemory(size) for _ in range(n_seq)]
        self._spare = LazyMemory(size)
        self._binding = session.binding()

    def split(self, batch: Sequence[Rows]) -> list[list[int]]:
        return [[i] for i in range(len(batch))]

    def run(self, rows: Sequence[Rows], logits: LogitsRows) -> None:
        (only,) = rows
        past = self._buffers[only.seq]
        for place in self._places:
            self._bind(place, past, self._spare, only.start, only.start + len(only.tokens))
        inputs = self._layout.inputs
        arrays = feeds(inputs, [only.tokens], [only.start], [n_computed(only)])
        self._binding.feed(arrays)
        run_for_logits(self._session, self._binding, self._layout, rows, logits)
        self._buffers[only.seq], self._spare = self._spare, past
        self.held[only.seq] = only.start + len(only.tokens)

    def _bind(
        self, place: _Place, past: LazyMemory, present: LazyMemory, n_past: int, n_present: int
    ) -> None:
        cache, dtype, start = place.cache, place.dtype, place.start
        self._binding.raw.bind_input(
            cache.past, "cpu", 0, dtype, place.shape(n_past), past.address + start
        )
        self._binding.raw.bind_output(
            cache.present, "cpu", 0, dtype, place.shape(n_present), present.address + start
        )

    def truncate(self, seq: int, n_tokens: int) -> None:
        buffer = self._buffers[seq]
        if n_tokens == 0:
            buffer.discard(0, len(buffer.bytes))
        elif n_tokens < self.held[seq]:
            self._move(seq, seq, n_tokens)
        self.held[seq] = n_tokens

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._move(source, target, n_tokens)
        self.held[target] = n_tokens

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        return packed([held[:, start:end] for held in self._views(seq, self.held[seq])])

    def append(self, seq: int, n_tokens: int, state: SavedKv) -> None:
        n_held = self.held[seq]
        before = [held.copy() for held in self._views(seq, n_held)]
        after = self._views(seq, n_held + n_tokens)
        for whole, held in zip(after, before, strict=True):
            whole[:, :n_held] = held
        unpack(state, [whole[:, n_held:] for whole in after])
        self.held[seq] += n_tokens

    def _views(self, seq: int, n_tokens: int) -> list[npt.NDArray[Any]]:
        return [place.view(self._buffers[seq], n_tokens) for place in self._places]

    def _move(self, source: int, target: int, n_tokens: int) -> None:
        for place in self._places:
            held = place.view(self._buffers[source], self.held[source])
            # A copy, because source and target may overlap.
            place.view(self._buffers[target], n_tokens)[...] = held[:, :n_tokens].copy()


def _places(session: OnnxSession, layout: GraphLayout, capacity: int) -> list[_Place]:
    places, start = [], 0
    for cache in layout.caches:
        dtype = session.dtype(cache.past)
        place = _Place(cache, dtype, start, start)
        n_bytes = prod(place.shape(capacity)) * np.dtype(dtype).itemsize
        end = start + -(-n_bytes // 4096) * 4096
        places.append(_Place(cache, dtype, start, end))
        start = end
    return places
