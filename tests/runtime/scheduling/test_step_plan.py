"""What the next call carries, decided without a backend."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from spillover.runtime.backend import Backend
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.scheduling.pace.cost_measurement import CostMeasurement, SavedCostTables
from spillover.runtime.scheduling.pace.pace import (
    FIRST_SLOWDOWN,
    GAP_SHARE,
    LEAST_PART,
    SAVING_BATCH,
    Pace,
)
from spillover.runtime.scheduling.pace.slice_costs import SavedCosts
from spillover.runtime.scheduling.queues import Queues
from spillover.runtime.scheduling.sequence import Job, Sequence
from spillover.runtime.scheduling.step_plan import (
    ADMISSION_RESERVE,
    admission_reserve,
    next_step_s,
    plan_beside,
    plan_gap,
    plan_step,
    shared_slices,
    victim,
)
from tests.answers import ask

MAX_GAP_S = 0.4
DECODE_S = 0.04
SLICE_S = {1: 0.017, 16: 0.094, 64: 0.230, 256: 1.163}


def pace(mixed: dict[int, float] | None = None, pure: dict[int, float] = SLICE_S) -> Pace:
    tables = SavedCostTables(
        pure=SavedCosts(per_call_s=pure, per_token_and_cell_s={}),
        mixed=SavedCosts(per_call_s=mixed or {}, per_token_and_cell_s={}),
    )
    measurement = CostMeasurement(cast(Backend, None), tables, on_done=lambda _: None)
    pace = Pace(measurement, MAX_GAP_S, n_batch=512)
    for n_rows in (1, 2):
        pace.observe_decode(n_rows, DECODE_S)
    return pace


def queues(*, decoding: int = 0, prompts: tuple[int, ...] = ()) -> Queues:
    """Sequences 0, 1, … that decode, then others with unread prompts of these lengths."""
    queues = Queues(n_slots=8)
    for i, n_prompt in enumerate((*[10] * decoding, *prompts)):
        job = Job(
            id=i,
            request=ask(max_tokens=500),
            prompt=np.arange(n_prompt, dtype=np.int32),
            seed=0,
            pipelines=(TextPipeline((), split_reasoning=False),),
        )
        queues.enqueue(Sequence(job, 0, None, now=0.0))
        sequence = queues.start_prefill(seq=i, n_past=0)
        if i < decoding:
            sequence.n_past = n_prompt
            queues.start_decode(sequence)
    queues.may_admit = False
    return queues


def test_sequences_that_decode_are_one_call() -> None:
    plan = plan_step(queues(decoding=2), pace(), 0.0)
    assert [s.job_id for s in plan.decoding] == [0, 1]
    assert (plan.slices, plan.gap_s, plan.alone) == ([], None, None)


def test_a_prompt_alone_is_read_in_the_slice_that_reads_it_soonest() -> None:
    plan = plan_step(queues(prompts=(640,)), pace(), 0.0)
    assert [(s.job_id, n) for s, n in plan.slices] == [(0, 64)]
    assert plan.alone is not None
    assert [len(rows.tokens) for rows in plan.rows()] == [64]
    assert not plan.rows()[0].wants_logits


def test_slices_are_smaller_while_power_is_saved() -> None:
    saving = pace(pure={1: 0.1, 64: 0.5, 128: 0.6, 512: 1.0})
    assert saving.alone(512, 512, 0) == 512
    saving.save_power(is_on=True)
    assert saving.alone(512, 512, 0) == SAVING_BATCH
    saving.save_power(is_on=False)
    assert saving.alone(512, 512, 0) == 512


def test_short_prompts_share_a_slice() -> None:
    plan = plan_step(queues(prompts=(30, 30, 30)), pace(), 0.0)
    assert [n for _, n in plan.slices] == [30, 30, 4]
    assert plan.alone is None
    assert [rows.wants_logits for rows in plan.rows()] == [True, True, False]


def test_slices_follow_the_decode_step_where_that_is_faster() -> None:
    running = queues(decoding=1, prompts=(640,))
    plan = plan_step(running, pace(), 0.0)
    assert (len(plan.decoding), plan.slices) == (1, [])
    assert plan.gap_s is not None
    assert plan.gap_s <= MAX_GAP_S - DECODE_S
    filler = plan_gap(running, pace(), 1, plan.gap_s, None)
    assert filler is not None
    assert [n for _, n in filler.slices] == [64]


def test_slices_share_the_decode_call_where_that_is_faster() -> None:
    plan = plan_step(queues(decoding=1, prompts=(640,)), pace(mixed={64: 0.05}), 0.0)
    assert (len(plan.decoding), plan.n_slice, plan.gap_s) == (1, 64, None)
    assert [rows.seq for rows in plan.rows()] == [0, 1]


def test_a_call_that_slices_share_does_not_follow_a_slice() -> None:
    # Together they would take two gaps.
    running, table = queues(decoding=1, prompts=(640,)), pace(mixed={64: 0.05})
    after_a_slice = plan_step(running, table, 2 * DECODE_S)
    assert (len(after_a_slice.decoding), after_a_slice.slices, after_a_slice.gap_s) == (1, [], None)
    assert plan_step(running, table, DECODE_S / 10).n_slice == 64


def test_a_gap_is_filled_with_slices_that_fit_without_the_decode_step() -> None:
    # As a part of a decode step the whole prompt would fit, alone it takes longer than the gap.
    running = queues(decoding=1, prompts=(640,))
    filler = plan_gap(running, pace(mixed={64: 0.05, 640: 0.3}), 1, 0.3, None)
    assert filler is not None
    assert filler.n_slice == 64


def test_a_gap_ends_when_the_rest_of_it_is_too_short_for_a_good_slice() -> None:
    running = queues(decoding=1, prompts=(640,))
    assert plan_gap(running, pace(), 1, 0.02, first_token_s=SLICE_S[64] / 64) is None


def test_a_gap_ends_when_all_prompts_are_read() -> None:
    assert plan_gap(queues(decoding=1), pace(), 1, 0.2, None) is None


def test_a_long_prompt_is_read_beside_and_one_that_fits_into_half_a_gap_is_not() -> None:
    (slice_,) = plan_beside(queues(decoding=1, prompts=(640,)), pace())
    assert (slice_[0].job_id, slice_[1]) == (1, 384)
    assert plan_beside(queues(decoding=1, prompts=(16,)), pace()) == []
    assert plan_beside(queues(decoding=1, prompts=(64,)), pace()) != []
    assert plan_beside(queues(prompts=(640,)), pace()) == []
    assert plan_beside(queues(decoding=2), pace()) == []


def test_later_prompts_share_the_batch_with_a_long_one() -> None:
    def shares(n: int, *prompts: int) -> list[tuple[int, int]]:
        slices = shared_slices(n, queues(prompts=prompts).prefilling)
        return [(sequence.job_id, taken) for sequence, taken in slices]

    assert shares(256, 900) == [(0, 256)]
    assert shares(256, 900, 30, 50) == [(0, 176), (1, 30), (2, 50)]
    assert shares(256, 900, 300, 50) == [(0, 128), (1, 128)]
    assert shares(256, 20, 900) == [(0, 20), (1, 236)]
    assert shares(90, 20, 30, 40) == [(0, 20), (1, 30), (2, 40)]
    assert shares(1, 5, 5) == [(0, 1)]


def test_a_batch_beside_ends_within_two_seconds_where_that_is_possible() -> None:
    assert pace().part(640, depth=0) == 384
    slow = pace()
    for _ in range(5):
        slow.observe_slice(16, 0, 0, 3 * SLICE_S[16])
    assert slow.part(640, depth=0) < 384
    for _ in range(5):
        slow.observe_slice(16, 0, 0, 100 * SLICE_S[16])
    assert slow.part(640, depth=0) == LEAST_PART
    assert slow.part(40, depth=0) == 40


def test_the_pause_between_steps_is_what_the_slowest_of_the_last_ones_leaves() -> None:
    learning = pace()
    assert learning.pause_s(1) == GAP_SHARE * MAX_GAP_S - FIRST_SLOWDOWN * DECODE_S
    for seconds in (DECODE_S, 0.1, *[DECODE_S] * 6):
        learning.observe_beside(1, seconds)
    assert learning.pause_s(1) == pytest.approx(GAP_SHARE * MAX_GAP_S - 0.1)
    learning.observe_beside(1, DECODE_S)
    learning.observe_beside(1, DECODE_S)
    assert learning.pause_s(1) == pytest.approx(GAP_SHARE * MAX_GAP_S - DECODE_S)
    learning.observe_beside(1, 1.0)
    assert learning.pause_s(1) == 0


def test_text_may_wait_for_the_next_step_only_while_nothing_but_decoding_is_ahead() -> None:
    assert next_step_s(queues(decoding=2), pace()) == DECODE_S
    assert next_step_s(queues(decoding=2, prompts=(9,)), pace()) is None
    changed = queues(decoding=2)
    changed.may_admit = True
    assert next_step_s(changed, pace()) is None


def test_a_sequence_begins_alone_at_any_rate_and_beside_others_with_a_reserve() -> None:
    newcomer = queues(prompts=(20,)).prefilling[0]
    assert admission_reserve(queues(), newcomer, n_ctx=1000) == 1
    assert admission_reserve(queues(decoding=2), newcomer, n_ctx=1000) == ADMISSION_RESERVE + 2
    assert admission_reserve(queues(decoding=2), newcomer, n_ctx=25) == 5 + 2


def test_a_sequence_leaves_the_others_room_for_the_rest_of_their_prompts() -> None:
    """It was preempted for them, began again at once, and nobody ever got further."""
    newcomer, running = queues(prompts=(20,)).prefilling[0], queues(decoding=1, prompts=(30, 40))
    running.filling.append(running.prefilling.pop())
    reserve = admission_reserve(running, newcomer, n_ctx=1000)
    assert reserve == ADMISSION_RESERVE + 1 + 30 + 40


def test_the_last_one_to_come_is_preempted_and_waits_in_front() -> None:
    running = queues(decoding=2, prompts=(9,))
    last = victim(running)
    assert last.job_id == 2
    running.requeue(last)
    assert (running.waiting[0], running.n_running, last.n_past) == (last, 2, 0)
    assert running.may_admit
