"""No KV cell is taken for which the system has no memory."""

from __future__ import annotations

import logging

import pytest

from spillover.runtime.kv_cache.memory import _STEP, KvMemory
from spillover.runtime.machine.device import memory_floor

CELL_BYTES = 10_000
LEFT_BYTES = memory_floor()


class System:
    """Has memory for *n_cells* beyond what it keeps, and counts how often it is asked."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.n_asked = 0

    def free_bytes(self) -> int:
        self.n_asked += 1
        return LEFT_BYTES + 1 + self.n_cells * CELL_BYTES

    def cache(self, *, is_returned: bool = False) -> KvMemory:
        return KvMemory(CELL_BYTES, is_returned=is_returned, free_bytes=self.free_bytes)


def test_cells_are_allowed_as_far_as_there_is_memory() -> None:
    memory = System(700).cache()
    assert memory.allows(300)
    # What was taken counts as used from then on, so the system is asked for the difference.
    assert memory.allows(_STEP + 700)
    assert not memory.allows(_STEP + 701 + 700)


def test_what_was_taken_once_stays_allowed() -> None:
    system = System(2000)
    memory = system.cache()
    assert memory.allows(1500)
    system.n_cells = 0
    assert memory.allows(1500)
    assert not memory.allows(3000)
    assert memory.allows(10)


def test_the_system_is_asked_once_for_many_cells() -> None:
    system = System(100_000)
    memory = system.cache()
    assert all(memory.allows(n) for n in range(1, 4 * _STEP + 1))
    assert system.n_asked == 4


def test_a_cache_that_returns_memory_has_to_ask_again() -> None:
    system = System(2000)
    memory = system.cache(is_returned=True)
    assert memory.allows(1500)
    memory.shrink(0)
    system.n_cells = 100
    assert not memory.allows(1500)
    assert memory.allows(100)


def test_a_cache_that_took_all_its_memory_at_load_asks_nobody() -> None:
    system = System(0)
    memory = KvMemory(0.0, is_returned=False, free_bytes=system.free_bytes)
    assert memory.allows(1_000_000)
    assert not system.n_asked


def test_the_owner_is_told_once_for_each_shortage(caplog: pytest.LogCaptureFixture) -> None:
    system = System(10)
    memory = system.cache()
    with caplog.at_level(logging.WARNING):
        assert not memory.allows(1000)
        assert not memory.allows(1000)
        system.n_cells = 5000
        assert memory.allows(1000)
        system.n_cells = 0
        assert not memory.allows(9000)
    assert len(caplog.records) == 2


def test_others_are_asked_when_nothing_of_its_own_is_left() -> None:
    """One after the other, and not again and again."""
    system, now = System(10), 100.0
    asked: list[int] = []
    is_worth_it = False

    def ask(n_bytes: int) -> bool:
        asked.extend([n_bytes] * is_worth_it)
        return is_worth_it

    given_back: list[int] = []
    memory = KvMemory(
        CELL_BYTES,
        is_returned=False,
        free_bytes=system.free_bytes,
        reclaim=given_back.append,
        ask=ask,
        clock=lambda: now,
    )
    assert memory.has_spare(0)
    for _ in range(3):  # for what is kept, nobody is asked
        assert not memory.has_spare(100 * CELL_BYTES)
    assert not memory.allows(100)
    assert (len(given_back), asked, memory.is_waiting) == (5, [], False)
    is_worth_it = True
    assert not memory.allows(100)
    assert not memory.allows(100)
    assert len(asked) == 1
    assert memory.is_waiting
    memory.note_answer()
    assert not memory.allows(100)
    assert (len(asked), memory.is_waiting) == (1, False)
    now += 10.0
    assert not memory.allows(100)
    assert (len(asked), memory.is_waiting) == (2, True)
