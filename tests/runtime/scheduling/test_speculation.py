"""What followed the same tokens before, and whether checking it is worth its time."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.backend import N_CHECKED, DecodeFailed, Tokens
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.scheduling import speculation
from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.scheduling.drafts.prompt_lookup import LONGEST, SHORTEST, PromptLookup
from spillover.runtime.scheduling.sequence import Job, Sequence
from spillover.runtime.scheduling.speculation import (
    FIRST_PATIENCE,
    LAST_PATIENCE,
    MOST_READ,
    MOST_STREAMS,
    PAUSE_STEPS,
    Speculation,
)

N_CTX = 1000
MAX_GAP_S = 20.0


def text(values: list[int]) -> Tokens:
    return np.array(values, dtype=np.int32)


# --- lookup ---------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_what_is_found_stood_in_the_text_behind_the_same_tokens(
    values: list[int], cuts: list[int]
) -> None:
    tokens, lookup = text(values), PromptLookup()
    for cut in sorted(cuts):
        lookup.extend(tokens[:cut])
    lookup.extend(tokens)
    n_matched, found = lookup.find(tokens, 6)
    if n_matched:
        assert SHORTEST <= n_matched <= LONGEST
        ends = [
            end for end in range(n_matched, len(values))
            if values[end - n_matched : end] == values[-n_matched:]
        ]  # fmt: skip
        assert any(found == ((values[end:]) * 6)[:6] for end in ends)
    else:
        assert found == []


def test_the_longest_match_counts_and_of_those_the_last() -> None:
    tokens = text([1, 2, 3, 4, 50, 9, 1, 2, 3, 4, 60, 9, 7, 3, 4, 70, 9, 1, 2, 3, 4])
    lookup = PromptLookup()
    lookup.extend(tokens)
    assert lookup.find(tokens, 3) == (4, [60, 9, 7])


def test_a_text_that_repeats_itself_goes_on_so() -> None:
    tokens = text([5, 1, 2, 3, 1, 2, 3, 1, 2])
    lookup = PromptLookup()
    lookup.extend(tokens)
    assert lookup.find(tokens, 7) == (4, [3, 1, 2, 3, 1, 2, 3])


@pytest.mark.parametrize("at_once", [True, False])
def test_a_repeated_passage_is_found_in_a_long_text(*, at_once: bool) -> None:
    before = np.random.default_rng(1).integers(0, 400, 3000)
    tokens = text([*before.tolist(), *before[1000:1300].tolist()])
    lookup = PromptLookup()
    n_right = 0
    for n in range(3000 if at_once else 1, 3280):
        lookup.extend(tokens[:n])
        if n > 3010:
            n_right += lookup.find(tokens[:n], 8) == (4, tokens[n : n + 8].tolist())
    assert n_right > 240


def test_a_text_too_short_for_a_match_has_none() -> None:
    for n in range(LONGEST):
        lookup = PromptLookup()
        lookup.extend(text([1] * n))
        assert lookup.find(text([1] * n), 4) == (0, [])


# --- drafts ---------------------------------------------------------------------------------


def test_drafts_are_judged_by_what_comes_whether_they_are_checked_or_not() -> None:
    parts = [3, 1, 4, 1, 5, 9, 2, 6]
    drafter = Drafter()
    drafter.follow(text(parts * 2))
    before = drafter.rate
    for n in range(1, 9):
        drafter.follow(text(parts * 2 + parts[:n]))
    after = drafter.rate
    assert after > before
    drafter.follow(text(parts * 3 + [77]))
    drafter.follow(text(parts * 3 + [77] + parts))
    assert drafter.draft[:8] in ([77, *parts[:7]], parts)
    assert drafter.rate < after


# --- choice ---------------------------------------------------------------------------------


class Fixed(Drafter):
    """The same draft at the same rate, whatever comes."""

    rate = 0.9

    def follow(self, tokens: Tokens) -> None:
        self.draft = [9] * N_CHECKED


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch) -> type[Fixed]:
    monkeypatch.setattr(Fixed, "rate", 0.9)
    monkeypatch.setattr(speculation, "Drafter", Fixed)
    return Fixed


def sequences(n: int, *, max_tokens: int | None = None) -> list[Sequence]:
    request = GenerationRequest(prompt=(1, 2, 3), max_tokens=max_tokens)
    jobs = [
        Job(
            id=i, request=request, prompt=text([1, 2, 3]), seed=0,
            pipelines=(TextPipeline((), split_reasoning=False),),
        )
        for i in range(n)
    ]  # fmt: skip
    return [Sequence(job, 0, None, now=0.0) for job in jobs]


def chooser(
    costs: dict[int, float], n: int = 1, *, served: int | None = None, room: int = 10_000
) -> Speculation:
    """One that knows what calls cost, by proposed tokens, for all streams or so many of them."""
    found = Speculation(N_CTX, lambda n_cells: n_cells <= room, MAX_GAP_S)
    for n_drafted, seconds in costs.items():
        for _ in range(2):
            found.observe(n, n if served is None else served, n_drafted, seconds)
    return found


def sizes(found: Speculation, decoding: list[Sequence]) -> list[int]:
    return [len(draft) for draft in found.drafts(decoding).values()]


CHEAP = {0: 1.0, 1: 1.0, 3: 1.1, 7: 1.3, 15: 3.0}
DEAR = {0: 1.0, 1: 2.0, 3: 4.0, 7: 8.0, 15: 16.0}


def test_the_size_is_chosen_by_what_it_promises_for_its_cost(fixed: type[Fixed]) -> None:
    assert sizes(chooser(CHEAP), sequences(1)) == [7]
    fixed.rate = 0.5
    assert sizes(chooser(CHEAP), sequences(1)) == [3]


def test_nothing_is_checked_before_a_plain_step_was_measured() -> None:
    found = Speculation(N_CTX, lambda n_cells: True, MAX_GAP_S)
    assert found.drafts(sequences(1)) == {}


def test_larger_drafts_are_tried_one_after_the_other() -> None:
    found, tried = chooser({0: 1.0}), []
    for _ in range(8):
        (size,) = sizes(found, sequences(1))
        tried.append(size)
        found.observe(1, 1, size, 1.0)
    assert tried == [3, 3, 7, 7, 15, 15, 15, 15]


def test_many_streams_try_a_token_each() -> None:
    assert sizes(chooser({0: 1.0}, 6), sequences(6)) == [1] * 6


def test_where_checks_lose_they_are_tried_ever_more_rarely() -> None:
    found, checks = chooser(DEAR), []
    for step in range(3 * LAST_PATIENCE):
        if sizes(found, sequences(1)):
            checks.append(step)
            found.observe(1, 1, 3, DEAR[3])
    assert checks[0] == FIRST_PATIENCE - 1
    gaps = np.diff(checks).tolist()
    assert gaps == sorted(gaps)
    assert len(checks) <= 7


def test_a_check_that_was_slow_by_chance_is_soon_seen_to_be_fast() -> None:
    found = chooser({0: 1.0, 3: 9.0})
    for _ in range(FIRST_PATIENCE):
        chosen = sizes(found, sequences(1))
    assert chosen == [3]
    found.observe(1, 1, 3, 1.1)
    assert sizes(found, sequences(1)) != []


def test_a_check_that_takes_longer_than_a_stream_may_wait_is_tried_with_one_token() -> None:
    found = chooser({0: 10.0, 1: 19.5, 3: 30.0})
    tried = [sizes(found, sequences(1)) for _ in range(FIRST_PATIENCE)]
    assert tried[-1] == [1]


def test_what_is_known_of_checks_that_take_too_long_fades_without_one() -> None:
    found = chooser({0: 1.0, 1: 70.0, 3: 90.0})
    chosen = [sizes(found, sequences(1)) for _ in range(4 * FIRST_PATIENCE)]
    assert chosen[: 2 * FIRST_PATIENCE] == [[]] * 2 * FIRST_PATIENCE
    assert any(chosen)
    found.observe(1, 1, 3, 90.0)
    assert found._costs.seconds(1, 1, 3) == 90.0


def test_what_checks_cost_depends_on_how_many_streams_have_a_draft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On ONNX Runtime each draft is a run of its own."""
    found, decoding = chooser({0: 1.0, 2: 9.0, 6: 9.0}, 2, served=2), sequences(2)
    assert sizes(found, decoding) == []
    for _ in range(2):
        found.observe(2, 1, 3, 1.1)
    monkeypatch.setattr(decoding[1], "drafter", Drafter())
    assert sizes(found, decoding) == [3]


def test_streams_without_a_draft_are_hardly_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    found, (one, other) = chooser(CHEAP | {7: 1.6, 15: 1.9}, 2), sequences(2)
    for n_drafted, seconds in ((1, 1.0), (3, 1.1), (7, 1.6), (15, 1.9)):
        for _ in range(2):
            found.observe(2, 1, n_drafted, seconds)
    assert sizes(found, [one, other]) != []
    assert other.drafter is not None
    monkeypatch.setattr(other.drafter, "follow", lambda tokens: None)
    other.drafter.draft = []
    assert [len(draft) for draft in found.drafts([one, other]).values()] == [3]
    assert one in found.drafts([one, other])


def test_no_check_takes_longer_than_a_stream_may_wait() -> None:
    assert sizes(chooser({0: 9.0, 1: 10.0, 3: 12.0, 7: 21.0, 15: 30.0}), sequences(1)) == [3]


def test_drafts_that_are_seldom_right_are_never_checked(fixed: type[Fixed]) -> None:
    fixed.rate = 0.2
    found = chooser(CHEAP)
    assert not any(found.drafts(sequences(1)) for _ in range(2 * LAST_PATIENCE))


def test_a_call_checks_no_more_than_it_may() -> None:
    n = MOST_STREAMS
    found = chooser(dict.fromkeys(range(N_CHECKED + 1), 1.0), n)
    assert sum(sizes(found, sequences(n))) == N_CHECKED
    assert found.drafts(sequences(n + 1)) == {}


def test_a_draft_ends_before_the_answer_does() -> None:
    assert sizes(chooser(CHEAP), sequences(1, max_tokens=3)) == [2]
    assert sizes(chooser(CHEAP), sequences(1, max_tokens=1)) == []


def test_drafts_only_take_cells_that_are_free() -> None:
    assert sizes(chooser(CHEAP, room=7), sequences(1)) == []
    assert sizes(chooser(CHEAP, room=8), sequences(1)) == [7]


def test_a_full_cache_ends_drafts_for_a_while() -> None:
    found = chooser(CHEAP)
    found.pause()
    assert [bool(found.drafts(sequences(1))) for _ in range(PAUSE_STEPS + 1)][-2:] == [False, True]


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


def test_the_setting_is_overridden_by_deterministic() -> None:
    assert EngineOptions().settled().speculation == "auto"
    assert EngineOptions(deterministic=True, cache_dir=Path()).settled().speculation == "off"
