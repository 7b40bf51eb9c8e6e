"""Whose inputs the next call reads, shown with an embedder that only adds numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from spillover.runtime.backend import DecodeAborted
from spillover.runtime.embedding.embedder import InputPart, TokenizedInput, Vector
from spillover.runtime.embedding.job import EmbeddingJob
from spillover.runtime.embedding.queue import EmbeddingQueue
from spillover.runtime.engine import EmbeddingCard
from spillover.runtime.errors import EngineBusy, InvalidRequest, ModelError
from spillover.runtime.events import Embedded, EngineEvent, Finished, Queued
from tests.runtime.embedding.vectors import vector


class Adder:
    """The vector of an input is the sum of its tokens."""

    card = EmbeddingCard(pooling="mean", n_ctx=100, n_values=1)
    n_vocab = 1_000
    n_slots = 4
    n_batch = 20

    def __init__(self, *, is_sliced: bool, is_padded: bool = False, room: int = 0) -> None:
        self.is_sliced = is_sliced
        self.is_padded = is_padded
        self.room = room
        self.largest = 1_000
        self.aborts = False
        self.calls: list[list[InputPart]] = []
        self.forgotten: list[int] = []
        self._sums: dict[int, float] = {}

    def tokenize(self, text: str, *, truncate: bool) -> TokenizedInput:
        raise NotImplementedError

    def tokenize_pair(self, query: str, document: str, *, truncate: bool) -> TokenizedInput:
        raise NotImplementedError

    def make_room(self, n_tokens: int) -> None:
        assert not self._sums
        if n_tokens > self.largest:
            raise ModelError("no memory")
        self.room = n_tokens

    def run(self, parts: Sequence[InputPart]) -> list[Vector]:
        self.calls.append(list(parts))
        if self.aborts:
            self.aborts = False
            self._sums.clear()
            raise DecodeAborted
        vectors = []
        for part in parts:
            assert part.start == 0 or part.slot in self._sums
            total = self._sums.pop(part.slot, 0.0) + float(part.tokens.sum())
            if part.is_last:
                vectors.append(np.array([total], dtype=np.float32))
            else:
                self._sums[part.slot] = total
        return vectors

    def forget(self, slot: int) -> None:
        self.forgotten.append(slot)
        self._sums.pop(slot, None)

    def abort(self) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


class Desk:
    """A queue, and what it has said."""

    def __init__(self, embedder: Adder, *, max_queue: int = 8, one_by_one: bool = False) -> None:
        self.embedder = embedder
        self.said: list[tuple[int, EngineEvent]] = []
        self.refused: list[tuple[int, Exception]] = []
        self._ids = itertools.count(1)
        ticks = itertools.count()
        self.queue = EmbeddingQueue(
            embedder,
            self.said.extend,
            lambda job_id, error: self.refused.append((job_id, error)),
            lambda: float(next(ticks)),
            max_queue=max_queue,
            one_by_one=one_by_one,
        )

    def ask(self, *lengths: int, value: int = 1) -> int:
        """A job of inputs with so many tokens."""
        inputs = {
            i: TokenizedInput(np.full(n, value, dtype=np.int32)) for i, n in enumerate(lengths)
        }
        job = EmbeddingJob(id=next(self._ids), inputs=inputs)
        self.queue.accept(job, unlimited=False)
        self.queue.add(job)
        return job.id

    def run(self, n_tokens: int = 1_000) -> None:
        for _ in range(1_000):
            if not self.queue:
                return
            self.queue.run_one(n_tokens)
        raise AssertionError("it does not end")

    def sums(self, job_id: int) -> dict[int, float]:
        events = [event for said_id, event in self.said if said_id == job_id]
        return {e.index: float(vector(e)[0]) for e in events if isinstance(e, Embedded)}

    def ends(self) -> list[tuple[int, str]]:
        return [(i, event.reason) for i, event in self.said if isinstance(event, Finished)]

    def sizes(self) -> list[int]:
        """Tokens of each call."""
        return [sum(len(part.tokens) for part in call) for call in self.embedder.calls]


KINDS = pytest.mark.parametrize("is_sliced", [True, False])


@KINDS
def test_every_input_gets_its_vector_and_the_job_its_end(is_sliced: bool) -> None:
    desk = Desk(Adder(is_sliced=is_sliced))
    lengths = (3, 50, 1, 7, 20, 21, 5, 5, 5)
    job = desk.ask(*lengths, value=2)
    desk.run()
    assert desk.sums(job) == {i: 2.0 * n for i, n in enumerate(lengths)}
    assert desk.ends() == [(job, "stop")]
    assert desk.queue.n_open == 0


def test_calls_are_no_larger_than_the_embedder_reads_well() -> None:
    desk = Desk(Adder(is_sliced=False))
    desk.ask(9, 9, 9, 50, 1)
    desk.run()
    assert desk.sizes() == [50, 18, 10]  # the long one alone, because it cannot be cut


def test_slices_are_as_large_as_the_loop_allows() -> None:
    desk = Desk(Adder(is_sliced=True, room=100))
    job = desk.ask(50, 10)
    desk.run(n_tokens=7)
    assert max(desk.sizes()) == 7
    assert desk.sums(job) == {0: 50.0, 1: 10.0}


def test_padding_counts() -> None:
    desk = Desk(Adder(is_sliced=False, is_padded=True, room=100))
    desk.ask(9, 9, 2, 2, 2)
    desk.run()
    assert [len(call) for call in desk.embedder.calls] == [2, 3]  # 2 x 9, then 3 x 2


def test_a_small_job_does_not_wait_for_a_large_one() -> None:
    desk = Desk(Adder(is_sliced=False, room=100))
    large, small = desk.ask(*[10] * 40), desk.ask(10)
    desk.run()
    assert desk.ends() == [(small, "stop"), (large, "stop")]
    assert len(desk.sums(large)) == 40
    n_calls_before = next(
        n for n, call in enumerate(desk.embedder.calls) if len({part.slot for part in call}) == 2
    )
    assert n_calls_before == 0  # it shares the first call


def test_inputs_that_are_read_in_parts_share_the_room() -> None:
    desk = Desk(Adder(is_sliced=True))
    job = desk.ask(30, 30, 30)
    desk.run(n_tokens=10)
    assert desk.embedder.room == 30
    for call in desk.embedder.calls:
        assert len(call) == 1  # room for one at a time
    assert desk.sums(job) == dict.fromkeys(range(3), 30.0)


def test_one_by_one_reads_each_input_alone() -> None:
    desk = Desk(Adder(is_sliced=False, room=100), one_by_one=True)
    desk.ask(2, 2, 2)
    desk.run()
    assert [len(call) for call in desk.embedder.calls] == [1, 1, 1]


@KINDS
def test_an_aborted_call_is_made_again(is_sliced: bool) -> None:
    desk = Desk(Adder(is_sliced=is_sliced, room=100))
    job = desk.ask(30, 5)
    desk.queue.run_one(10)
    desk.embedder.aborts = True
    desk.run(n_tokens=10)
    assert desk.sums(job) == {0: 30.0, 1: 5.0}


@KINDS
def test_a_cancelled_job_ends_wherever_it_is(is_sliced: bool) -> None:
    desk = Desk(Adder(is_sliced=is_sliced, room=100))
    job, other = desk.ask(30, 30, 30), desk.ask(5)
    desk.queue.run_one(10)
    desk.queue.cancel(job)
    desk.queue.cancel(99)  # nobody's
    desk.run(n_tokens=10)
    assert (job, "cancelled") in desk.ends()
    assert (other, "stop") in desk.ends()
    assert len(desk.sums(job)) < 3
    assert desk.queue.n_open == 0
    n_calls = len(desk.embedder.calls)
    desk.run()
    assert len(desk.embedder.calls) == n_calls


def test_a_job_without_memory_is_refused_and_the_others_go_on() -> None:
    desk = Desk(Adder(is_sliced=False))
    desk.embedder.largest = 40
    large, small = desk.ask(50, 3), desk.ask(5)
    desk.run()
    ((refused, error),) = desk.refused
    assert refused == large
    assert isinstance(error, EngineBusy)
    assert desk.ends() == [(small, "stop")]
    assert desk.queue.n_open == 0


def test_a_vector_that_is_no_number_refuses_its_job_alone() -> None:
    desk = Desk(Adder(is_sliced=False, room=100))
    whole = desk.embedder.run
    desk.embedder.run = lambda parts: [  # type: ignore[method-assign]  # one model in a thousand
        vector * np.nan if vector[0] == 3 else vector for vector in whole(parts)
    ]
    bad, good = desk.ask(3, 4, 4), desk.ask(5)
    desk.run()
    ((refused, error),) = desk.refused
    assert refused == bad
    assert isinstance(error, InvalidRequest)
    assert desk.ends() == [(good, "stop")]
    assert desk.queue.n_open == 0


def test_too_many_jobs_are_refused() -> None:
    desk = Desk(Adder(is_sliced=False), max_queue=1)
    first, second = desk.ask(5), desk.ask(5)
    with pytest.raises(EngineBusy, match="2 requests for embeddings"):
        desk.ask(5)
    assert [e for _, e in desk.said if isinstance(e, Queued)][1].position == 1
    desk.run()
    desk.ask(5)
    assert dict(desk.ends()) == {first: "stop", second: "stop"}


def test_a_job_that_only_lacked_its_end_gets_it() -> None:
    desk = Desk(Adder(is_sliced=False))
    job = desk.ask()
    assert desk.ends() == [(job, "stop")]
    assert desk.queue.n_open == 0
