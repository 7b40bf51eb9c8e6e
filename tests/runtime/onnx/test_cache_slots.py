"""Sequences change their slots in parts, and keep their tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spillover.runtime.onnx.graph.layout import CacheTensor
from spillover.runtime.onnx.runners import cache_slots
from spillover.runtime.onnx.runners.cache_slots import CacheSlots, SlotArray

N_SEQ, N_POSITIONS, PART = 5, 64, 16
"""A page has the values of 16 positions."""
CACHE = CacheTensor(
    layer=0, kind="key", past="past", present="present", dtype="float32",
    shape=(None, 2, None, 64), batch_axis=0, length_axis=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_slots, "N_PART", PART)
    monkeypatch.setattr(cache_slots, "N_DISCARDED", PART)


class Slots:
    """The KV cache of a graph with one array, and what each sequence should hold there."""

    def __init__(self) -> None:
        self._array = SlotArray(CACHE, np.float32, N_SEQ + 1, N_POSITIONS)
        self.slots = CacheSlots([self._array], N_SEQ)
        self.wanted: list[list[float]] = [[] for _ in range(N_SEQ)]
        self._n_written = 0

    def add(self, seq: int, n: int) -> None:
        start = len(self.wanted[seq])
        values = [float(self._n_written + i) for i in range(min(n, N_POSITIONS - start))]
        self._n_written += len(values)
        slot, end = self.slots.slot(seq), start + len(values)
        self._array.values[slot, :, start:end] = np.array(values, np.float32)[None, :, None]
        self.slots.held[seq] = end
        self.wanted[seq] += values

    def cut(self, seq: int, n: int) -> None:
        self.wanted[seq] = self.wanted[seq][:n]
        self.slots.truncate(seq, len(self.wanted[seq]))

    def gather(self, seqs: list[int]) -> int:
        """The number of groups."""
        groups = self.slots.gather(seqs)
        assert sorted(seq for group in groups for seq in group) == sorted(seqs)
        for group in groups:
            first = self.slots.slot(group[0])
            assert [self.slots.slot(seq) for seq in group] == list(range(first, first + len(group)))
        return len(groups)

    def check(self) -> None:
        for seq, wanted in enumerate(self.wanted):
            (held,) = self.slots.parts(seq, 0, len(wanted))
            assert (held == np.array(wanted, np.float32)[None, :, None]).all()


Operation = st.one_of(
    st.tuples(st.just("add"), st.integers(0, N_SEQ - 1), st.sampled_from([1, 7, 40])),
    st.tuples(st.just("cut"), st.integers(0, N_SEQ - 1), st.sampled_from([0, 5, 30])),
    st.tuples(st.just("gather"), st.sets(st.integers(0, N_SEQ - 1), min_size=1), st.just(0)),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(Operation, max_size=25), st.sets(st.integers(0, N_SEQ - 1), min_size=1))
def test_whatever_moves_each_sequence_keeps_its_tokens(
    operations: list[tuple[str, object, int]], last: set[int]
) -> None:
    slots = Slots()
    for kind, which, n in operations:
        if isinstance(which, set):
            slots.gather(sorted(which))
        elif isinstance(which, int):
            slots.add(which, n) if kind == "add" else slots.cut(which, n)
        slots.check()
    n_calls = 0
    while slots.gather(sorted(last)) > 1:
        n_calls += 1
        slots.check()
    slots.check()
    assert n_calls <= N_SEQ * N_POSITIONS / PART


def test_a_long_sequence_moves_a_part_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that began beside long conversations waited until one of them was copied thrice."""
    slots, sizes = Slots(), list[int]()
    copy = SlotArray.copy

    def noted(array: SlotArray, source: int, target: int, start: int, end: int) -> None:
        sizes.append(end - start)
        copy(array, source, target, start, end)

    monkeypatch.setattr(SlotArray, "copy", noted)
    for seq in range(N_SEQ):
        slots.add(seq, 60)
    n_steps = 0
    while slots.gather([0, 2]) > 1:
        n_steps += 1
        for seq in (0, 2):
            slots.add(seq, 1)
        slots.check()
    assert n_steps >= 60 // PART
    assert max(sizes) <= PART
    assert sum(sizes) <= 2 * 70
