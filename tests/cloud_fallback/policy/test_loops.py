"""Loops are found with the place of their second round; what repeats by nature is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.text.loops import Loop, Loops
from spillover.runtime.events import Delta, ReasoningDelta
from tests.cloud_fallback.policy.answers import Leg, asked, prose, token, words

SETTINGS = PolicySettings()


def first_loop(tokens: list[str], *, by_nature: bool = False) -> Loop | None:
    loops = Loops(SETTINGS.loop_tokens, SETTINGS.loop_copies, SETTINGS.near_loop_count)
    text = ""
    for piece in tokens:
        has_word = any(map(str.isalnum, piece))
        loops.push(token(piece).token_ids[0], len(text), has_word=has_word)
        text += piece
        so_far = text
        found = loops.find(lambda so_far=so_far: so_far, repeats_by_nature=by_nature)  # type: ignore[misc]
        if found is not None:
            return found
    return None


def pieces(text: str) -> list[str]:
    """Words with the white space before them."""
    return [delta.text for delta in words(text)]


@given(n_before=st.integers(0, 300), period=st.integers(1, 120))
def test_a_cycle_is_found_and_its_first_round_is_kept(n_before: int, period: int) -> None:
    before = [delta.text for delta in prose(n_before)]
    cycle = [delta.text for delta in prose(period, start=1_000)]
    needed = max(SETTINGS.loop_tokens, SETTINGS.loop_copies * period)
    answer = before + cycle * ((needed + 8) // period + 1)
    found = first_loop(answer)
    assert found is not None
    assert found.period == period
    kept = "".join(answer)[: found.keep_chars]
    assert kept == "".join(before + cycle)
    assert needed <= found.n_tokens < needed + 8


@given(st.integers(0, 2_000))
def test_text_without_repeats_is_not_a_loop(start: int) -> None:
    assert first_loop([delta.text for delta in prose(400, start)]) is None


@pytest.mark.parametrize(
    "text",
    [
        "ha " * 40 + "that was funny",
        "no no no no no, said the bear. " * 2,
        "| --- " * 60 + "|",
        "- " * 100,
        "Row, row, row your boat. Row, row, row your boat, gently down the stream.",
    ],
)
def test_short_or_wordless_repeats_are_no_loop(text: str) -> None:
    assert first_loop(pieces(text.strip())) is None


def test_code_and_json_may_repeat_more_often() -> None:
    array = ["[", *["0", ", "] * 60]
    assert first_loop(array, by_nature=True) is None
    assert first_loop(array) is not None
    assert first_loop(["[", *["0", ", "] * 400], by_nature=True) is not None


def test_near_variants_of_a_passage_are_a_loop() -> None:
    rounds = [
        f" The little bear went to the river number {i} and he was very happy to see the fish ."
        for i in range(40)
    ]
    before = " It was a bright morning and everybody in the valley had got up early to bake bread ."
    text = before + "".join(rounds)
    found = first_loop(pieces(text.strip()))
    assert found is not None
    kept = text.strip()[: found.keep_chars]
    assert kept.startswith(before.strip())
    assert 1 <= kept.count("The little bear") <= 2


def test_a_refrain_in_a_song_is_not_a_loop() -> None:
    verses = [
        "  ".join(delta.text.strip() for delta in prose(30, 100 * i)) + " and they all sang hey ho"
        for i in range(6)
    ]
    assert first_loop(pieces(" ".join(verses))) is None


def test_the_watch_rolls_back_to_before_the_second_round() -> None:
    leg = Leg()
    leg.begin()
    good, cycle = prose(20), words(" I went to the shop and bought some bread .")
    verdicts = leg.feed([*good, *cycle * 10])
    assert verdicts[-1] == "handoff"
    reason = leg.watch.reason
    assert reason is not None
    assert reason.code == "repetition"
    assert reason.is_hard
    assert reason.keep_chars == sum(len(delta.text) for delta in [*good, *cycle])


def test_tokens_that_come_several_at_a_time_are_placed_one_by_one() -> None:
    good, cycle = prose(20), words(" I went to the shop and bought some bread .")
    kept = set()
    for size in (1, 3, 4, 7):
        leg = Leg()
        leg.begin()
        leg.feed(_joined([*good, *cycle * 10], size))
        kept.add(_keep(leg.watch.reason))
    assert kept == {sum(len(delta.text) for delta in [*good, *cycle])}


def _keep(reason: Reason | None) -> int | None:
    assert reason is not None
    return reason.keep_chars


def _joined(deltas: list[Delta], size: int) -> list[Delta]:
    groups = [deltas[i : i + size] for i in range(0, len(deltas), size)]
    return [
        Delta(
            text="".join(d.text for d in group),
            token_ids=tuple(t for d in group for t in d.token_ids),
            logprobs=tuple(lp for d in group for lp in d.logprobs),
        )
        for group in groups
    ]


def test_a_loop_in_a_code_block_needs_more_rounds() -> None:
    lines = words(" x = 1\n") * 30
    leg = Leg(asked("Write some code please"))
    leg.begin()
    assert "handoff" not in leg.feed([token("```"), token("python"), token("\n"), *lines])


def test_a_loop_of_thoughts_is_a_loop() -> None:
    leg = Leg()
    leg.begin()
    reasoning = [
        ReasoningDelta(text=d.text, token_ids=d.token_ids, logprobs=d.logprobs)
        for d in words(" But wait, I have to look at that once more .") * 10
    ]
    assert leg.feed(reasoning)[-1] == "handoff"
    assert _keep(leg.watch.reason) == 0
