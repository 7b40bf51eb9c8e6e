"""Prompts that are read beside the answers, on the real model; the clock is moved by the calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spillover.runtime.backend import DecodeFailed, Rows
from spillover.runtime.events import Delta, Finished, Prefilling, Queued
from spillover.runtime.llama.prefill import prompt_reader
from tests.runtime.gate import Gate
from tests.runtime.scheduling.watched_loop import DECODE_S, MAX_GAP_S, Loop, loop_on


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    # The calls move the clock, so the loop never waits, and a reader that gave way would starve.
    monkeypatch.setattr(prompt_reader, "lower_thread_priority", lambda: None)
    yield gate
    gate.opened.set()


@pytest.fixture
def loop(model_path: Path, gate: Gate) -> Iterator[Loop]:
    yield from loop_on(model_path)


def run_streams(loop: Loop, n: int, max_tokens: int = 900) -> None:
    """So many streams, which all have begun. One prompt at a time fits between two tokens; several
    would be read beside the first stream, where the gate is shut."""
    for job_id in range(1, n + 1):
        loop.submit(job_id, 16, max_tokens=max_tokens)
        loop.wait_for(job_id, Delta)


def wait_for_tokens(loop: Loop, job_id: int, n: int) -> None:
    for _ in range(n):
        loop.wait_for(job_id, Delta)


def finish(loop: Loop, *job_ids: int) -> list[Finished]:
    ends: dict[int, Finished] = {}
    while set(ends) != set(job_ids):
        found, event = loop.events.get(timeout=60)
        if found in job_ids and isinstance(event, Finished):
            ends[found] = event
    return [ends[job_id] for job_id in job_ids]


def cancel(loop: Loop, *job_ids: int) -> None:
    for job_id in job_ids:
        loop.scheduler.cancel(job_id)
    assert {end.reason for end in finish(loop, *job_ids)} <= {"cancelled", "length"}


def test_streams_go_on_at_the_slowest_pace_that_is_allowed(loop: Loop, gate: Gate) -> None:
    run_streams(loop, 3)
    loop.submit(9, 900, max_tokens=2)
    assert gate.entered.wait(60)
    n_before = len(loop.calls)
    wait_for_tokens(loop, 1, 40)
    steps = [call.at for call in loop.calls[n_before + 15 :]]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    # The first ones leave room for a step that is slower beside a prompt; it turns out not to be.
    assert max(gaps) <= MAX_GAP_S
    assert min(gaps) >= 0.8 * MAX_GAP_S
    assert not any(call.n_slice for call in loop.calls[n_before:])
    gate.opened.set()
    (end,) = finish(loop, 9)
    assert end.usage.completion_tokens == 2


def test_a_prompt_without_streams_beside_it_is_read_in_the_loop(loop: Loop, gate: Gate) -> None:
    loop.submit(1, 900, max_tokens=2)
    finish(loop, 1)
    assert gate.batches == []


def test_a_short_prompt_is_read_between_two_tokens(loop: Loop, gate: Gate) -> None:
    run_streams(loop, 1)
    loop.submit(9, 16, max_tokens=2)
    finish(loop, 9)
    assert gate.batches == []


def test_progress_and_the_first_token_come_when_they_should(loop: Loop, gate: Gate) -> None:
    gate.opened.set()
    run_streams(loop, 1)
    loop.submit(9, 900, max_tokens=3)
    n_read, n_tokens = [], 0
    while True:
        job_id, event = loop.events.get(timeout=60)
        if job_id == 9 and isinstance(event, Prefilling):
            n_read.append(event.n_read)
        elif job_id == 9 and isinstance(event, Delta):
            n_tokens += len(event.token_ids)
        elif job_id == 9 and isinstance(event, Finished):
            break
    assert (n_read[0], n_read[-1]) == (0, 900)
    assert n_read == sorted(set(n_read))
    assert len(n_read) > 2
    assert n_tokens == 3


@pytest.mark.parametrize("n_prompt", [100, 900])
def test_the_answer_is_that_of_the_prompt(loop: Loop, gate: Gate, n_prompt: int) -> None:
    gate.opened.set()
    shown = {"logprobs": 5, "max_tokens": 1, "reuse_prefix": False}
    first: dict[int, dict[bytes, float]] = {}
    run_streams(loop, 1)
    for job_id in (7, 8):  # together
        loop.submit(job_id, n_prompt, **shown)
    for job_id in (7, 8):
        first[job_id] = top_of(loop, job_id)
    assert gate.batches
    loop.scheduler.cancel(1)  # if it goes on
    for job_id in (7, 8):
        loop.submit(job_id + 10, n_prompt, prompt_of=job_id, **shown)
        alone = top_of(loop, job_id + 10)
        common = set(alone) & set(first[job_id])
        assert len(common) >= 3
        assert max(abs(alone[token] - first[job_id][token]) for token in common) < 0.5


def top_of(loop: Loop, job_id: int) -> dict[bytes, float]:
    """The likeliest first tokens of an answer, and their log probabilities."""
    event = loop.wait_for(job_id, Delta)
    assert isinstance(event, Delta)
    assert event.logprobs
    return {top.token: top.logprob for top in event.logprobs[0].top}


def test_prompts_that_come_while_one_is_read_share_the_next_batch(loop: Loop, gate: Gate) -> None:
    run_streams(loop, 1)
    loop.submit(7, 900, max_tokens=1)
    assert gate.entered.wait(60)
    for job_id in (8, 9):
        loop.submit(job_id, 30, max_tokens=1)
    loop.wait_for(9, Queued)
    wait_for_tokens(loop, 1, 3)
    gate.opened.set()
    finish(loop, 8, 9, 7)
    assert len(gate.batches[0]) == 1
    assert gate.batches[1][1:] == [30, 30]


@pytest.mark.parametrize("leaves", ["the only one", "the first", "the second", "both"])
def test_a_client_that_leaves_in_the_middle_of_a_batch_frees_its_place(
    loop: Loop, gate: Gate, leaves: str
) -> None:
    run_streams(loop, 1)
    jobs = [7] if leaves == "the only one" else [7, 8]
    for job_id in jobs:
        loop.submit(job_id, 70, max_tokens=2)
    assert gate.entered.wait(60)
    left = {"the first": [7], "the second": [8]}.get(leaves, jobs)
    cancel(loop, *left)
    assert sum(slot.state == "idle" for slot in loop.scheduler.slots()) == 3 - len(jobs) + len(left)
    for job_id in (10, 11):  # take the places at once
        loop.submit(job_id, 80, max_tokens=2)
    gate.opened.set()
    ends = finish(loop, *(set(jobs) - set(left)), 10, 11)
    assert all(end.usage.completion_tokens == 2 for end in ends)
    cancel(loop, 1)
    assert loop.scheduler.n_queued == 0


@pytest.mark.parametrize(("n_prompt", "max_tokens"), [(300, 2), (70, 1)])
def test_a_prompt_outlives_the_streams_beside_it(
    loop: Loop, gate: Gate, n_prompt: int, max_tokens: int
) -> None:
    """Where its answer ended with its first token, that came only when somebody else asked."""
    run_streams(loop, 2)
    loop.submit(9, n_prompt, max_tokens=max_tokens)
    assert gate.entered.wait(60)
    cancel(loop, 1, 2)
    gate.opened.set()
    (end,) = finish(loop, 9)
    assert end.usage.completion_tokens == max_tokens


def test_the_loop_stops_in_the_middle_of_a_batch(loop: Loop, gate: Gate) -> None:
    run_streams(loop, 1)
    loop.submit(9, 900, max_tokens=2)
    assert gate.entered.wait(60)
    loop.scheduler.stop()
    gate.opened.set()
    loop.stop()
    assert loop.error is None


def test_a_poisoned_prompt_ends_the_loop_as_in_any_other_call(
    loop: Loop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_streams(loop, 1)
    n_vocab = loop.scheduler._backend.info.n_vocab
    reader = loop.scheduler._backend.reader
    assert reader is not None
    start = reader.start

    def poison(batch: list[Rows], on_end: object) -> bool:
        rows = [Rows(r.seq, r.start, r.tokens + n_vocab, r.wants_logits) for r in batch]
        return start(rows, on_end)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "start", poison)
    gate.opened.set()
    loop.submit(9, 300, max_tokens=2)
    loop.join()
    assert isinstance(loop.error, DecodeFailed)


@pytest.fixture
def tight_loop(model_path: Path, gate: Gate) -> Iterator[Loop]:
    """With 512 KV cells."""
    yield from loop_on(model_path, 512)


def test_a_batch_that_finds_the_cache_full_gives_way_to_older_answers(
    tight_loop: Loop, gate: Gate
) -> None:
    loop, is_submitted = tight_loop, threading.Event()

    def hold() -> None:
        """The first answer waits for the other prompt, and at its end for what is read."""
        if len(loop.calls) == 10:
            assert is_submitted.wait(60)
        if len(loop.calls) > 270 and gate.entered.is_set() and not gate.opened.is_set():
            gate.opened.set()  # what is read has no room any more
            (reader,) = (t for t in threading.enumerate() if t.name == "prompt reader")
            reader.join(60)

    loop.before_call = hold
    loop.submit(1, 20, max_tokens=380)
    loop.wait_for(1, Delta)
    loop.submit(9, 300, max_tokens=3)
    is_submitted.set()
    loop.wait_for(9, Queued)
    old, new = finish(loop, 1, 9)
    assert (old.reason, old.usage.completion_tokens) == ("length", 380)
    assert (new.reason, new.usage.completion_tokens) == ("length", 3)


def test_many_newcomers_all_get_their_answers(loop: Loop, gate: Gate) -> None:
    gate.opened.set()
    lengths = np.random.default_rng(5).integers(1, 400, 12).tolist()
    for job_id, n in enumerate(lengths[:6], 1):
        loop.submit(job_id, n, max_tokens=60)
    for job_id, n in enumerate(lengths[6:], 7):
        loop.submit(job_id, n, max_tokens=5)
    ends = finish(loop, *range(1, 13))
    assert [end.usage.completion_tokens for end in ends] == [60] * 6 + [5] * 6
    assert [end.usage.prompt_tokens for end in ends] == lengths
    assert gate.batches
    assert all(slot.state == "idle" for slot in loop.scheduler.slots())


def test_steps_come_at_once_when_nothing_is_read(loop: Loop, gate: Gate) -> None:
    gate.opened.set()
    run_streams(loop, 2)
    loop.submit(9, 300, max_tokens=1)
    finish(loop, 9)
    n_before = len(loop.calls)
    wait_for_tokens(loop, 1, 10)
    steps = [call.at for call in loop.calls[n_before + 2 : n_before + 9]]
    assert all(b - a == pytest.approx(DECODE_S) for a, b in itertools.pairwise(steps))


def test_power_is_saved_between_two_batches(
    loop: Loop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was only done when no prompt was left to be read."""
    n_batches = list[int]()
    backend = loop.scheduler._backend
    monkeypatch.setattr(backend, "save_power", lambda *, is_on: n_batches.append(len(gate.batches)))
    run_streams(loop, 1)
    for job_id in (8, 9):
        loop.submit(job_id, 900, max_tokens=2)
    assert gate.entered.wait(60)
    loop.scheduler.save_power(is_on=True)
    gate.opened.set()
    finish(loop, 8, 9)
    assert len(gate.batches) > 1
    assert n_batches == [1]
