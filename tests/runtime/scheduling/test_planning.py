"""The scheduler's book-keeping and decisions: pure parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.backend import Backend, Rows
from spillover.runtime.fit.context_fit import fit_context
from spillover.runtime.fit.model_shape import ModelShape
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.kv_cache.kept_sequences import PrefixMatch, longest_match, n_common
from spillover.runtime.kv_cache.ledger import KvLedger
from spillover.runtime.options import EngineOptions
from spillover.runtime.scheduling.pace.cost_measurement import CostMeasurement, SavedCostTables
from spillover.runtime.scheduling.pace.slice_costs import SavedCosts, SliceCosts
from spillover.runtime.scheduling.pace.slice_plan import best_alone, plan_slice
from spillover.runtime.worker.supervision.restarts import RestartPolicy

ON_A_CPU = {1: 17, 4: 27, 8: 51, 16: 94, 24: 171, 32: 272, 48: 530, 64: 230, 128: 514, 256: 1163}
"""Milliseconds per call, measured once with flash attention on: dearest per token at 24 to 48."""


def costs() -> SliceCosts:
    table = SliceCosts()
    for n, ms in ON_A_CPU.items():
        table.measured(n, ms / 1e3)
    return table


def plan(n_left: int, room_ms: float, depth: int = 0) -> tuple[int, bool]:
    slice_plan = plan_slice(
        costs(), SliceCosts(), n_left=n_left, depth=depth, n_most=512, room_s=room_ms / 1e3,
        decode_s=0.037,
    )  # fmt: skip
    return slice_plan.n_tokens, slice_plan.mixed


def test_the_slice_skips_the_sizes_that_cost_most() -> None:
    assert plan(1500, 260) == (64, False)
    assert plan(1500, 200)[0] <= 16
    assert plan(48, 400)[0] <= 16


def test_a_prompt_makes_progress_even_when_no_slice_fits() -> None:
    assert plan(1500, 1)[0] >= 1
    assert plan(1500, -50)[0] >= 1


def test_mixed_slices_are_taken_where_they_read_faster() -> None:
    mixed = SliceCosts()
    mixed.measured(64, 0.05)
    chosen = plan_slice(costs(), mixed, n_left=500, depth=0, n_most=512, room_s=0.2, decode_s=0.03)
    assert (chosen.n_tokens, chosen.mixed) == (64, True)


def test_depth_makes_slices_more_expensive_and_so_smaller() -> None:
    table = costs()
    table.measured_deep(64, 448, 0.300)
    assert (table.predict(64, 448) or 0) > 0.29
    chosen = plan_slice(
        table, SliceCosts(), n_left=900, depth=2000, n_most=512, room_s=0.26, decode_s=0.037
    )
    assert chosen.n_tokens < 64


def ms(table: SliceCosts, n: int, depth: int = 0) -> float:
    return 1e3 * (table.predict(n, depth) or 0)


def test_later_calls_correct_the_table() -> None:
    table = costs()
    for _ in range(20):
        table.observe(64, 0, 0.4)
    assert abs(ms(table, 64) - 400) < 10


def test_one_call_that_was_held_up_changes_little() -> None:
    table = costs()
    table.observe(64, 0, 2.3)
    assert ms(table, 64) < 1.5 * 230
    assert ms(table, 16) == 94


def test_when_all_is_slower_all_predictions_are_and_they_come_back() -> None:
    table = costs()
    for n in (16, 64, 16):
        table.observe(n, 0, 2e-3 * ON_A_CPU[n])
    assert abs(ms(table, 128) - 2 * 514) < 200  # which did not run
    for n in (16, 64, 16, 64, 16, 64, 16, 64):
        table.observe(n, 0, 1e-3 * ON_A_CPU[n])
    assert abs(ms(table, 128) - 514) < 80


def test_two_slow_calls_in_a_row_are_believed_at_once() -> None:
    table = costs()
    for _ in range(2):
        table.observe(64, 0, 0.69)
    assert ms(table, 64) > 1.8 * 230


def test_a_wrong_entry_is_corrected_and_does_not_spoil_the_others() -> None:
    table = costs()
    table.observe(64, 0, 0.08)
    for _ in range(12):
        for n in (16, 64, 128):
            table.observe(n, 0, 0.08 if n == 64 else 1e-3 * ON_A_CPU[n])
    assert abs(ms(table, 64) - 80) < 25
    assert abs(ms(table, 128) - 514) < 80


def test_of_several_measurements_the_shortest_counts() -> None:
    table = SliceCosts()
    for seconds in (0.3, 0.1, 0.2):
        table.measured(64, seconds)
        table.measured_deep(64, 100, seconds + 0.05)
    assert ms(table, 64) == 100
    assert ms(table, 64, 100) <= 150 + 1e-6


def test_attention_costs_what_it_does_at_the_same_kind_of_size() -> None:
    table = costs()
    table.measured_deep(16, 448, 0.094 + 16 * 448 * 4e-6)
    table.measured_deep(64, 448, 0.230 + 64 * 448 * 4e-7)
    assert abs(ms(table, 8, 1000) - (51 + 32)) < 0.1
    assert abs(ms(table, 16, 1000) - (94 + 64)) < 0.1
    assert abs(ms(table, 128, 1000) - (514 + 51.2)) < 0.1


def test_the_cost_of_attention_is_learned_deep_in_a_text() -> None:
    table = costs()
    table.measured_deep(64, 448, 0.230 + 64 * 448 * 2e-6)
    for _ in range(8):
        for depth in (100, 400, 800, 1600):
            table.observe(64, depth, 0.230 + 64 * depth * 5e-7)
    for depth in (400, 800, 1600):
        true_ms = 230 + 64 * depth * 5e-4
        assert abs(ms(table, 64, depth) / true_ms - 1) < 0.2


def test_a_slope_that_seemed_to_be_nothing_is_learned_too() -> None:
    table = costs()
    table.measured_deep(64, 448, 0.200)
    for _ in range(12):
        for depth in (100, 400, 800, 1600):
            table.observe(64, depth, 0.230 + 64 * depth * 1e-6)
    assert abs(ms(table, 64, 1600) / (230 + 102) - 1) < 0.15


def test_between_two_sizes_the_cost_is_between_theirs_unless_a_cheaper_kernel_starts() -> None:
    table = costs()
    assert ms(table, 12) == (51 + 94) / 2
    assert ms(table, 56) >= 530


def test_alone_a_prompt_is_read_soonest_as_a_whole() -> None:
    assert best_alone(costs(), 1500, 0, 512) == 64
    assert best_alone(SliceCosts(), 1500, 0, 512) == 512
    linear = SliceCosts()
    for n in (1, 64, 128, 256):
        linear.measured(n, 0.010 + 0.0015 * n)
    assert best_alone(linear, 162, 0, 512) == 162
    assert best_alone(linear, 600, 0, 512) == 512


@given(st.lists(st.tuples(st.sampled_from(["extend", "share", "cut"]), *[st.integers(0, 3)] * 3)))
def test_the_ledger_counts_as_sets_do(steps: list[tuple[str, int, int, int]]) -> None:
    ledger, held = KvLedger(12, 4), [[], [], [], []]  # type: ignore[var-annotated]  # lists of cells
    fresh = iter(range(10_000))
    for kind, a, b, n in steps:
        used = len({cell for cells in held for cell in cells})
        assert ledger.n_used == used
        if kind == "extend" and n and used + n <= 12:
            ledger.extend(a, n)
            held[a] += [next(fresh) for _ in range(n)]
        elif kind == "share" and a != b and not held[b]:
            ledger.share(a, b, min(n, len(held[a])))
            held[b] = held[a][:n]
        elif kind == "cut":
            ledger.truncate(a, min(n, len(held[a])))
            held[a] = held[a][:n]
        others = {cell for cells in held[1:] for cell in cells}
        assert ledger.n_exclusive([0]) == len(set(held[0]) - others)


def test_the_longest_common_beginning_wins_and_leaves_one_token_to_read() -> None:
    prompt = np.arange(20, dtype=np.int32)
    held = [(1, prompt[:10]), (2, prompt.copy()), (3, prompt[::-1])]
    assert longest_match(prompt, held) == PrefixMatch(2, 19)
    assert longest_match(prompt, held[2:]) is None
    assert n_common(prompt, prompt[:0]) == 0


def test_restarts_come_slower_and_then_not_at_all() -> None:
    policy = RestartPolicy(3)
    assert [policy.next_delay_s(t) for t in (0, 1, 2, 3)] == [0.0, 0.25, 0.5, None]
    assert policy.next_delay_s(700) == 0.0


SHAPE = ModelShape(n_ctx_train=32_768, size_bytes=2**30, kv_bytes_per_cell=24_576)


def test_the_context_fits_the_memory() -> None:
    def fit(options: EngineOptions, free: int) -> tuple[int, int, int]:
        found = fit_context(options, SHAPE, free)
        return found.n_ctx, found.n_kv, found.n_parallel

    n_ctx, n_kv, n_parallel = fit(EngineOptions(), 8 * 2**30)
    assert n_ctx == 16_384
    assert n_kv * 24_576 <= 2 * 2**30
    assert n_parallel >= 4
    small_ctx, small_kv, small_parallel = fit(EngineOptions(), 200 * 2**20)
    assert small_kv * 24_576 <= 60 * 2**20
    assert small_ctx <= small_kv
    assert small_parallel >= 4
    assert fit(EngineOptions(n_ctx=512, n_kv=1000, n_parallel=2), 2**30) == (512, 1024, 2)


def test_a_device_that_is_measured_is_not_measured_again() -> None:
    """A cancel that came when nothing ran any more used to end the worker here."""
    saved = SavedCosts(per_call_s={1: 0.01}, per_token_and_cell_s={})
    measurement = CostMeasurement(
        cast(Backend, None), SavedCostTables(pure=saved, mixed=saved), on_done=lambda _: None
    )
    assert measurement.is_sound
    assert measurement.wait_s is None
    measurement.measure_one(cast(KvCache, None))


class SlowBackend:
    """A call takes a millisecond a token; other programs make it ten."""

    info = SimpleNamespace(n_batch=512, n_vocab=100, n_threads=2)

    def __init__(self) -> None:
        self.now = 0.0
        self.is_disturbed = False
        self.asked = 0.0
        self.n_disturbed_s = 0.0

    def decode(self, batch: list[Rows]) -> None:
        factor = 10 if self.is_disturbed else 1
        passed = factor * 1e-3 * sum(len(rows.tokens) for rows in batch)
        self.now += passed
        self.n_disturbed_s += passed if self.is_disturbed else 0.0

    def keep(self, _: int, n_tokens: int) -> int:
        return n_tokens

    def logits(self, _: int) -> None: ...

    def free(self) -> float:
        share = self.n_disturbed_s / max(self.now - self.asked, 1e-9)
        self.asked, self.n_disturbed_s = self.now, 0.0
        return 2.0 - share


def measuring() -> tuple[SlowBackend, CostMeasurement, KvCache, list[SavedCostTables]]:
    backend, kept = SlowBackend(), list[SavedCostTables]()
    kv = SimpleNamespace(
        has_room=lambda _: True, take_ids=lambda n: list(range(n)), drop=lambda _: None
    )
    measurement = CostMeasurement(
        cast(Backend, backend), None, kept.append, lambda: backend.now, lambda: backend
    )
    return backend, measurement, cast(KvCache, kv), kept


def measure_all(measurement: CostMeasurement, kv: KvCache) -> None:
    while measurement.wait_s == 0:
        measurement.measure_one(kv)


def test_sizes_that_others_disturbed_are_measured_again_at_once() -> None:
    backend, measurement, kv, kept = measuring()
    for n in range(12):
        backend.is_disturbed = n in (2, 3)
        measurement.measure_one(kv)
    backend.is_disturbed = False
    measure_all(measurement, kv)
    (tables,) = kept
    for n, seconds in tables.pure.per_call_s.items():
        assert seconds == pytest.approx(1e-3 * n)
    assert tables.pure.per_token_and_cell_s.keys() == {4, 16, 64, 256}
    assert measurement.wait_s is None


def test_what_others_disturbed_all_the_time_is_not_kept_and_is_measured_again_later() -> None:
    # A server that was started beside busy programs read its prompts at half the speed ever after.
    backend, measurement, kv, kept = measuring()
    backend.is_disturbed = True
    measure_all(measurement, kv)
    assert kept == []
    assert not measurement.is_sound
    assert measurement.pure.predict(64, 0) == pytest.approx(0.64)
    rests = []
    for _ in range(6):
        wait_s = measurement.wait_s
        assert wait_s
        rests.append(wait_s)
        backend.now += wait_s
        backend.n_disturbed_s += wait_s
        measurement.measure_one(kv)
    assert rests == pytest.approx([60, 120, 240, 480, 960, 960])
    assert measurement.wait_s
    backend.now += measurement.wait_s
    backend.is_disturbed = False
    measure_all(measurement, kv)
    (tables,) = kept
    assert tables.pure.per_call_s[512] == pytest.approx(0.512)
    assert measurement.is_sound
