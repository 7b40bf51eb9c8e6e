"""When a draft model is asked, and when it reads a text for that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest

from spillover.runtime.backend import DecodeFailed, Tokens
from spillover.runtime.scheduling import speculation
from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.scheduling.sequence import Sequence
from spillover.runtime.scheduling.speculation import (
    FIRST_PATIENCE,
    LAST_PATIENCE,
    MOST_READ,
    Speculation,
)
from tests.runtime.scheduling.speculating import (
    CHEAP,
    MAX_GAP_S,
    N_CTX,
    Fixed,
    sequences,
    sizes,
    text,
)

pytestmark = pytest.mark.usefixtures("fixed")


class Proposing:
    """A draft model that takes *step_s* for a token, and *read_s* for one of a text."""

    def __init__(self, step_s: float, read_s: float = 0.0) -> None:
        self.now = 0.0
        self.step_s, self.read_s = step_s, read_s
        self.n_asked: list[int] = []
        self.n_reads: list[int] = []
        self.unread: dict[int, int] = {}
        self.is_full = False
        self.failure: Exception | None = None

    def n_unread(self, seq: int, tokens: Tokens) -> int:
        return self.unread.get(seq, 0)

    def has_room(self, n_tokens: int, seqs: Collection[int]) -> bool:
        return not self.is_full

    def read(self, seq: int, tokens: Tokens, n: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.now += n * self.read_s
        self.n_reads.append(n)
        self.unread[seq] = max(self.unread[seq] - n, 0)

    def propose(self, texts: Iterable[tuple[int, Tokens]], n: int) -> list[list[int]]:
        if self.failure is not None:
            raise self.failure
        assert not any(self.unread.get(seq) for seq, _ in texts)
        self.now += n * self.step_s
        self.n_asked.append(n)
        return [[5] * n for _ in texts]


def with_model(
    step_s: float, read_s: float = 0.0, n: int = 1, costs: dict[int, float] | None = None
) -> tuple[Speculation, Proposing]:
    model = Proposing(step_s, read_s)
    found = Speculation(N_CTX, lambda n_cells: True, MAX_GAP_S, model, lambda: model.now)
    for n_drafted, seconds in (costs or CHEAP).items():
        for n_served in range(1, n + 1):
            for _ in range(2):
                found.observe(n, n_served, n_drafted, seconds)
    return found, model


def placed(n: int, **fields: int) -> list[Sequence]:
    """With ids of their own."""
    found = sequences(n, **fields)
    for seq, sequence in enumerate(found):
        sequence.placed(seq, 0, slot=seq)
    return found


def test_a_draft_model_is_asked_where_the_text_offers_less(fixed: type[Fixed]) -> None:
    found, model = with_model(0.01)
    (one,) = sequences(1)
    assert found.drafts([one])[one] == [9] * 7
    fixed.rate = 0.4
    draft = found.drafts([one])[one]
    assert draft == [5] * len(draft)
    assert model.n_asked == [len(draft)]


def test_the_time_of_a_draft_model_counts(fixed: type[Fixed]) -> None:
    fixed.rate = 0.0
    found, model = with_model(2.0)
    for _ in range(2):  # nothing is known of its speed: the first call does not count
        assert sizes(found, sequences(1)) != []
    assert [sizes(found, sequences(1)) for _ in range(FIRST_PATIENCE - 1)] == [[]] * (
        FIRST_PATIENCE - 1
    )
    assert len(model.n_asked) == 2


def test_while_a_draft_model_reads_one_text_it_proposes_for_others(fixed: type[Fixed]) -> None:
    fixed.rate = 0.4
    found, model = with_model(0.01, n=2)
    one, other = placed(2)
    model.unread = {0: 200, 1: 1}
    drafts = found.drafts([one, other])
    assert set(drafts[other]) == {5}
    assert set(drafts[one]) == {9}  # what the text offers
    while model.unread[0]:
        found.drafts([one, other])
    assert max(model.n_reads) == MOST_READ
    assert set(found.drafts([one, other])[one]) == {5}


def test_the_time_for_reading_is_no_time_of_a_proposal(fixed: type[Fixed]) -> None:
    fixed.rate = 0.0
    found, model = with_model(0.01, read_s=0.02)
    (one,) = placed(1)
    for _ in range(3):
        model.unread[0] = 16
        assert sizes(found, [one]) != []
    assert found._model_step_s == pytest.approx(0.01)
    assert found._read_token_s == pytest.approx(0.02)


def test_no_step_waits_longer_for_reading_than_a_stream_may(fixed: type[Fixed]) -> None:
    fixed.rate = 0.0
    found, model = with_model(0.01, read_s=0.5)
    (one,) = placed(1)
    model.unread[0] = 500
    for _ in range(2):
        found.drafts([one])
    for rest in (500, 400):
        model.unread[0], model.read_s = rest, 0.25
        found._read_token_s, started = 0.25, model.now
        found._max_gap_s = 6.0
        monkey = found._gain_s
        found._gain_s = lambda rate, n, n_served: 1e9  # type: ignore[method-assign]  # worth any time
        found.drafts([one])
        found._gain_s = monkey  # type: ignore[method-assign]
        assert 0 < model.now - started <= 6.0 - CHEAP[0]


def test_a_long_text_is_not_read_for_a_short_answer(fixed: type[Fixed]) -> None:
    fixed.rate = 0.0
    found, model = with_model(0.08, read_s=0.01)
    (short,), (long,) = placed(1, max_tokens=20), placed(1, max_tokens=400)
    model.unread[0] = 900
    for _ in range(30):
        found.drafts([short])
        model.unread[0] = 900
    assert len(model.n_reads) == 2  # to know how long it takes
    found.drafts([long])
    assert len(model.n_reads) == 3


def test_a_text_is_not_read_where_its_own_draft_would_hold_up_too_many(fixed: type[Fixed]) -> None:
    """It would only be worth it once the others were read as well."""
    fixed.rate = 0.0
    found, model = with_model(0.3, read_s=0.001, n=4)
    found._read_token_s, found._model_step_s = 0.001, 0.3
    decoding = placed(4, max_tokens=400)
    model.unread = dict.fromkeys(range(4), 100)
    found.drafts(decoding)
    assert model.n_reads == []
    model.unread = {0: 100, 1: 0, 2: 0, 3: 0}
    found.drafts(decoding)
    assert model.n_reads != []


def test_a_draft_model_that_never_proposed_is_not_taken_to_do_so_at_once(
    fixed: type[Fixed],
) -> None:
    fixed.rate = 0.0
    found, model = with_model(0.8, read_s=0.1)
    (one,) = placed(1, max_tokens=400)
    for _ in range(30):
        model.unread[0] = 60
        found.drafts([one])
    assert len(model.n_reads) == 2  # to know how long it takes: as long as the large model


def test_a_draft_model_without_room_reads_nothing(fixed: type[Fixed]) -> None:
    fixed.rate = 0.0
    found, model = with_model(0.01)
    model.unread[0], model.is_full = 100, True
    for _ in range(LAST_PATIENCE):
        assert found.drafts(placed(1)) == {}
    assert model.n_reads == model.n_asked == []


@pytest.mark.parametrize("n_unread", [0, 1, 200])
def test_a_draft_model_that_fails_is_not_asked_again(
    fixed: type[Fixed], caplog: pytest.LogCaptureFixture, n_unread: int
) -> None:
    fixed.rate = 0.4
    found, model = with_model(0.01)
    model.unread[0], model.failure = n_unread, DecodeFailed("llama_decode returned -3")
    for _ in range(10):
        found.drafts(placed(1))
    assert set(*found.drafts(placed(1)).values()) == {9}
    assert [record.message.count("llama_decode returned -3") for record in caplog.records] == [1]


def test_a_draft_model_that_is_never_right_is_asked_ever_more_rarely() -> None:
    values = list(range(100, 900))  # nothing comes twice
    drafter, n_asked = Drafter(), []
    for n in range(1, len(values)):
        drafter.follow(text(values[:n]))
        if drafter.model_rate >= speculation.LEAST_RATE:
            n_asked.append(n)
            drafter.take([7, 7, 7])
    assert n_asked[-1] > 200
    assert len(n_asked) < 40
