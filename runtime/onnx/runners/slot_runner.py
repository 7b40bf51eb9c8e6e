"""Runs graphs whose KV cache is past and present at once: many rows in one run.

One token each of any number of sequences is one run, or some while long ones change their slots;
several tokens of one sequence are a separate run, on its slot of the same arrays. Only a few tokens
share the run of the others, where the graph takes rows of unequal length: all are padded to the
longest, which from about four tokens on costs more than a second run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from spillover.runtime.backend import Rows, SavedKv
from spillover.runtime.onnx.feeds import feeds
from spillover.runtime.onnx.graph.layout import GraphLayout
from spillover.runtime.onnx.runners.cache_slots import CacheSlots, SlotArray, positions_per_page
from spillover.runtime.onnx.runners.logits import n_computed, run_for_logits
from spillover.runtime.onnx.runners.packing import packed, unpack
from spillover.runtime.onnx.runners.runner import LogitsRows
from spillover.runtime.onnx.session import Binding, OnnxSession

_MOST_BINDINGS = 32
_MOST_PADDED = 8
"""Rows times positions of a run with rows of unequal length (measured: 0.5B parameters, int4)."""


class SlotRunner:
    """See runtime/onnx/runners/runner.py."""

    def __init__(
        self, session: OnnxSession, layout: GraphLayout, *, n_seq: int, capacity: int
    ) -> None:
        self.capacity = capacity
        self._session = session
        self._layout = layout
        self._arrays = [
            SlotArray(cache, dtype, n_seq + 1, -(-capacity // page) * page)
            for cache in layout.caches
            for dtype in [session.dtype(cache.past)]
            for page in [positions_per_page(cache, dtype)]
        ]
        self._slots = CacheSlots(self._arrays, n_seq)
        self.held = self._slots.held
        self._bindings: OrderedDict[tuple[int, int], Binding] = OrderedDict()

    def split(self, batch: Sequence[Rows]) -> list[list[int]]:
        together = [i for i, rows in enumerate(batch) if len(rows.tokens) == 1]
        others = [i for i, rows in enumerate(batch) if len(rows.tokens) > 1]
        if self._layout.batch_size == 1:
            return [[i] for i in (*together, *others)]
        if together and len(others) == 1 and self._may_join(batch, others[0]):
            together.append(others.pop())
        alone = [[i] for i in others]
        if not together:
            return alone
        place_of = {batch[i].seq: i for i in together}
        groups = self._slots.gather([*place_of])
        return [*([place_of[seq] for seq in group] for group in groups), *alone]

    def _may_join(self, batch: Sequence[Rows], slice_: int) -> bool:
        """Whether a slice shares the run of the others, each of which has one token."""
        width = len(batch[slice_].tokens)
        inputs, form = self._layout.inputs, self._layout.logits_form
        if inputs.query_lengths is None or len(batch) * width > _MOST_PADDED:
            return False
        if form == "last" or inputs.n_logits is not None:
            return False  # such a graph counts from the end of a row, where the padding is
        # The padding needs room too, although it is not kept.
        return all(rows.start + width <= self.capacity for rows in batch)

    def run(self, rows: Sequence[Rows], logits: LogitsRows) -> None:
        binding = self._binding(self._slots.slot(rows[0].seq), len(rows))
        arrays = feeds(
            self._layout.inputs,
            [one.tokens for one in rows],
            [one.start for one in rows],
            [n_computed(one) for one in rows],
        )
        binding.feed(arrays)
        run_for_logits(self._session, binding, self._layout, rows, logits)
        for one in rows:
            self.held[one.seq] = one.start + len(one.tokens)

    def _binding(self, first: int, n: int) -> Binding:
        """A binding with the KV cache of *n* slots from *first* on; the last ones are kept, since
        binding some dozens of arrays is slow."""
        found = self._bindings.get((first, n))
        if found is None:
            found = self._bindings[first, n] = self._new_binding(first, n)
            if len(self._bindings) > _MOST_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end((first, n))
        return found

    def _new_binding(self, first: int, n: int) -> Binding:
        binding = self._session.binding()
        for array in self._arrays:
            shape, address = [n, *array.shape[1:]], array.address(first)
            binding.raw.bind_input(array.cache.past, "cpu", 0, array.dtype, shape, address)
            binding.raw.bind_output(array.cache.present, "cpu", 0, array.dtype, shape, address)
        return binding

    def truncate(self, seq: int, n_tokens: int) -> None:
        self._slots.truncate(seq, n_tokens)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._slots.copy(source, target, n_tokens)

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        return packed(self._slots.parts(seq, start, end))

    def append(self, seq: int, n_tokens: int, state: SavedKv) -> None:
        n_held = self.held[seq]
        unpack(state, self._slots.parts(seq, n_held, n_held + n_tokens))
        self.held[seq] += n_tokens
