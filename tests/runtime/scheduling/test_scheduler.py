"""The scheduler's loop on the real model, with a clock that its calls move by what they cost."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import DecodeAborted
from spillover.runtime.events import Delta, Finished, Prefilling, Queued
from spillover.runtime.request import Priority
from tests.answers import end_of
from tests.runtime.scheduling.watched_loop import MAX_GAP_S, Call, Loop, loop_on
from tests.waiting import wait_until


@pytest.fixture
def loop(model_path: Path) -> Iterator[Loop]:
    yield from loop_on(model_path)


@pytest.fixture
def slicing_loop() -> Iterator[Loop]:
    """On a backend that reads prompts in its decode calls only."""
    yield from loop_on(Path(find("storyteller-onnx").path))


def test_running_streams_wait_no_longer_than_allowed_while_a_long_prompt_is_read(
    slicing_loop: Loop,
) -> None:
    loop = slicing_loop
    arrived = threading.Event()

    def let_the_newcomer_in() -> None:
        if len(loop.calls) == 20 and not arrived.is_set():
            arrived.set()
            loop.submit(9, 900, max_tokens=1)

    loop.before_call = let_the_newcomer_in
    for job_id in (1, 2, 3):
        loop.submit(job_id, 20, max_tokens=120)
    loop.wait_for(9, Finished)
    loop.scheduler.cancel(1)
    calls = loop.calls[20:]
    slices = [call for call in calls if call.n_slice]
    assert sum(call.n_slice for call in slices) >= 890
    steps = [call.at for call in calls if len(call.decoded) >= 3]
    assert max(b - a for a, b in itertools.pairwise(steps)) <= MAX_GAP_S
    assert {call.n_slice for call in slices[:-1]} == {64}


def test_alone_a_prompt_is_read_in_the_fastest_slices(loop: Loop) -> None:
    loop.submit(1, 900, max_tokens=1)
    loop.wait_for(1, Finished)
    assert {call.n_slice for call in loop.calls[:-1]} == {64}


def test_cancelling_an_unknown_job_does_no_harm(loop: Loop) -> None:
    # Used to end the worker, once everything was measured.
    loop.scheduler.cancel(99)
    wait_until(lambda: not len(loop.scheduler._inbox))
    loop.submit(1, 20, max_tokens=3)
    loop.wait_for(1, Finished)
    loop.scheduler.cancel(1)
    loop.submit(2, 20, max_tokens=3)
    end = loop.wait_for(2, Finished)
    assert isinstance(end, Finished)
    assert end.reason == "length"


def test_short_prompts_that_wait_are_read_together(slicing_loop: Loop) -> None:
    loop = slicing_loop

    def all_come_while_the_first_is_read() -> None:
        if len(loop.calls) == 0:
            for job_id in (2, 3, 4):
                loop.submit(job_id, 30, max_tokens=5)

    loop.before_call = all_come_while_the_first_is_read
    loop.submit(1, 30, max_tokens=5)
    for job_id in (2, 3, 4):
        end = loop.wait_for(job_id, Finished)
        assert isinstance(end, Finished)
        assert end.usage.completion_tokens == 5
    slices = [call.n_slice for call in loop.calls if call.n_slice]
    assert sum(slices) >= 118
    assert max(slices) == 64


@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_cancel_frees_the_place_in_every_phase(loop: Loop, phase: str) -> None:
    waits = 0 if phase != "queue" else 4
    for job_id in range(1, waits + 1):
        loop.submit(job_id, 20, max_tokens=900)
    if phase == "prefill":
        # In the middle of its prompt, by another thread than the loop's, as intake does.
        def cancel_at_the_third_slice() -> None:
            if len(loop.calls) == 3:
                thread = threading.Thread(target=loop.scheduler.cancel, args=(9,))
                thread.start()
                thread.join()

        loop.before_call = cancel_at_the_third_slice
    loop.submit(9, 900, max_tokens=900)
    if phase == "decode":
        loop.wait_for(9, Delta)
    if phase != "prefill":
        loop.scheduler.cancel(9)
    end = loop.wait_for(9, Finished)
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    for job_id in range(1, waits + 1):
        loop.scheduler.cancel(job_id)
        loop.wait_for(job_id, Finished)
    assert all(slot.state == "idle" for slot in loop.scheduler.slots())
    assert loop.scheduler.n_queued == 0
    if phase == "prefill":
        assert sum(call.n_slice for call in loop.calls) < 900


def test_progress_is_reported_slice_by_slice(loop: Loop) -> None:
    loop.submit(1, 300, max_tokens=1)
    n_read = []
    while True:
        _, event = loop.events.get(timeout=60)
        if isinstance(event, Prefilling):
            n_read.append(event.n_read)
        if isinstance(event, Finished):
            break
    slices = [b - a for a, b in itertools.pairwise(n_read)]
    assert (n_read[0], n_read[-1]) == (0, 300)
    assert len(slices) > 1
    assert not any(n <= 0 or 24 <= n < 64 for n in slices)


def test_zero_tokens_only_read_the_prompt(loop: Loop) -> None:
    loop.submit(1, 300, max_tokens=0)
    end = loop.wait_for(1, Finished)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == ("length", 0)
    assert sum(call.n_slice for call in loop.calls) == 300


def test_tokens_lost_in_an_aborted_call_are_read_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A recurrent state cannot be wound back: it used to be continued as if it were still there.
    loop.submit(1, 100, max_tokens=10)
    wanted = _answer_of(loop, 1)
    backend = loop.scheduler._backend
    keep = backend.keep

    def abort_the_fifth_call() -> None:
        if len(loop.calls) == n_before + 4:
            monkeypatch.setattr(backend, "keep", lambda seq, n: keep(seq, 0))
            loop.calls.append(Call([], loop.now))
            raise DecodeAborted

    n_before = len(loop.calls)
    loop.before_call = abort_the_fifth_call
    loop.submit(2, 100, prompt_of=1, max_tokens=10, reuse_prefix=False)
    assert _answer_of(loop, 2) == wanted


def _answer_of(loop: Loop, job_id: int) -> list[int]:
    """The tokens of an answer, when it has ended."""
    tokens: list[int] = []
    while True:
        found_id, event = loop.events.get(timeout=60)
        if found_id == job_id and isinstance(event, Delta):
            tokens += event.token_ids
        if found_id == job_id and isinstance(event, Finished):
            return tokens


def test_without_memory_for_all_streams_one_waits_and_every_one_is_answered_whole(
    loop: Loop,
) -> None:
    if not loop.scheduler._backend.info.kv_bytes_per_cell:
        pytest.skip("the KV cache took all its memory at load")

    def run_out_of_memory() -> None:
        if len(loop.calls) == 20:
            loop.free_bytes = 0

    loop.before_call = run_out_of_memory
    for job_id in (1, 2, 3):
        loop.submit(job_id, 20, max_tokens=400)
    ends = [loop.wait_for(job_id, Finished) for job_id in (1, 2, 3)]
    assert [end.usage.completion_tokens for end in ends if isinstance(end, Finished)] == [400] * 3
    assert max(len(call.decoded) for call in loop.calls[:20]) == 3
    assert min(len(call.decoded) for call in loop.calls[20:]) < 3


def test_where_there_is_no_memory_at_all_an_answer_ends_and_the_next_one_is_taken(
    loop: Loop,
) -> None:
    if not loop.scheduler._backend.info.kv_bytes_per_cell:
        pytest.skip("the KV cache took all its memory at load")
    loop.free_bytes = 0
    loop.submit(1, 20, max_tokens=5)
    end = loop.wait_for(1, Finished)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == ("length", 0)
    loop.free_bytes = 1 << 40
    loop.submit(2, 20, max_tokens=5)
    assert len(_answer_of(loop, 2)) == 5


def test_a_prompt_without_memory_waits_for_what_others_give_back(loop: Loop) -> None:
    """It used to end at once, beside another model that nobody used."""
    if not loop.scheduler._backend.info.kv_bytes_per_cell:
        pytest.skip("the KV cache took all its memory at load")
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    loop.free_bytes, loop.on_shortage = 0, asked.put
    loop.submit(9, 20, max_tokens=5, priority="background")  # for which nobody is asked
    assert end_of([loop.wait_for(9, Finished)]).reason == "length"
    assert asked.empty()
    loop.submit(1, 20, max_tokens=5)
    loop.submit(2, 20, max_tokens=5)
    assert asked.get(timeout=60) > 0
    loop.scheduler.cancel(2)  # who waits for it can leave
    assert end_of([loop.wait_for(2, Finished)]).reason == "cancelled"
    loop.free_bytes = 1 << 40
    loop.scheduler.note_memory_answer()
    assert len(_answer_of(loop, 1)) == 5
    assert asked.empty()


def test_the_background_rests_while_others_are_here_and_reads_nothing_twice(loop: Loop) -> None:
    loop.submit(1, 20, max_tokens=200, priority="background")
    loop.wait_for(1, Delta)
    n_before = len(loop.calls)
    loop.submit(9, 20, max_tokens=30)
    loop.submit(10, 20, max_tokens=30, priority="background")
    loop.wait_for(9, Prefilling)
    served, ends = set[int](), dict[int, Finished]()
    while len(ends) < 3:
        job_id, event = loop.events.get(timeout=60)
        if 9 not in ends and not isinstance(event, Queued):
            served.add(job_id)
        if isinstance(event, Finished):
            ends[job_id] = event
    assert served == {9}
    n_written = {job_id: end.usage.completion_tokens for job_id, end in ends.items()}
    assert n_written == {1: 200, 9: 30, 10: 30}
    assert sum(call.n_slice for call in loop.calls[n_before:]) == 40


def test_a_prompt_of_the_background_is_not_read_on_when_others_come(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    aborted = list[int]()
    monkeypatch.setattr(loop.scheduler._backend, "abort", lambda: aborted.append(len(loop.calls)))

    def others_come_in_later_slices() -> None:
        priorities: dict[int, Priority] = {1: "background", 2: "normal"}
        if priority := priorities.get(len(loop.calls)):
            fields = {"max_tokens": 5, "priority": priority}
            job_id = 8 + len(loop.calls)
            thread = threading.Thread(target=loop.submit, args=(job_id, 16), kwargs=fields)
            thread.start()
            thread.join()

    loop.before_call = others_come_in_later_slices
    loop.submit(1, 900, max_tokens=5, priority="background")
    loop.wait_for(10, Finished)
    assert aborted == [2]
    slices = [call.n_slice for call in loop.calls if call.n_slice]
    assert slices[:4] == [64, 64, 64, 16]
    loop.wait_for(9, Finished)


def test_a_conversation_stays_in_the_cache_when_the_background_needs_no_room(loop: Loop) -> None:
    for job_id in (1, 2):
        loop.submit(job_id, 100 * job_id, prompt_of=100 * job_id, max_tokens=5)
        loop.wait_for(job_id, Finished)
    for job_id in (3, 4, 5):
        loop.submit(job_id, 50, prompt_of=300 + job_id, max_tokens=5, priority="background")
        loop.wait_for(job_id, Finished)
    for job_id in (6, 7):
        loop.submit(job_id, 100 * (job_id - 5), prompt_of=100 * (job_id - 5), max_tokens=1)
        end = loop.wait_for(job_id, Finished)
        assert isinstance(end, Finished)
        assert end.usage.cached_tokens == end.usage.prompt_tokens - 1


def test_power_is_saved_from_the_next_step_on(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[bool]()
    backend = loop.scheduler._backend
    monkeypatch.setattr(backend, "save_power", lambda *, is_on: told.append(is_on))
    loop.submit(1, 20, max_tokens=5)
    loop.wait_for(1, Finished)
    assert told == []
    for is_on in (True, True, False):
        loop.scheduler.save_power(is_on=is_on)
        loop.submit(2, 20, max_tokens=5)
        loop.wait_for(2, Finished)
    assert told == [True, False]


def test_the_place_in_the_queue_counts_what_has_to_end_before(loop: Loop) -> None:
    # Used to fall from 2 to 0 when one of the answers ahead had begun.
    all_came = threading.Event()

    def wait_for_all() -> None:
        all_came.wait(60)

    loop.before_call = wait_for_all
    for job_id, max_tokens in enumerate((5, 60, 60, 60, 60, 5), start=1):
        loop.submit(job_id, 20, max_tokens=max_tokens)
    all_came.set()
    places = []
    while True:
        job_id, event = loop.events.get(timeout=60)
        if job_id == 6 and isinstance(event, Queued):
            places.append(event.position)
        elif job_id == 6:
            break
    assert list(dict.fromkeys(places)) == [2, 1]
