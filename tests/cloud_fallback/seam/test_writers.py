"""Two thousand cuts in texts of many scripts and forms, taken up in all the ways of writers."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.runtime.text.folding import fold
from tests.cloud_fallback.seam.corpus import ASKED, Client
from tests.cloud_fallback.seam.texts import TEXTS
from tests.cloud_fallback.seam.writers import ECHOING, MISSPELLING, SILENT, STRANGE, Writer

N_CUTS = 50
"""In each of the texts, for each of the claims."""

every_text = pytest.mark.parametrize("name", sorted(TEXTS))


def taken_up(
    name: str, writers: dict[str, Writer], *, prefill: bool = False
) -> Iterator[tuple[str, Continuation, str, str, str]]:
    """(what happened, what was asked, the whole answer, what came, what the client has)."""
    answer, chance = TEXTS[name], random.Random(name)
    for _ in range(N_CUTS):
        at = chance.randrange(1, len(answer) + 1)
        plan = plan_continuation(ASKED, answer[:at], prefill=prefill)
        if len(fold(plan.shown)) < 12:
            continue
        writer = chance.choice(sorted(writers))
        cloud = writers[writer](plan, answer, chance)
        text = Client(plan, answer[:at]).read(cloud, [chance.randrange(1, 9)])
        yield f"{writer}, cut at {at}", plan, answer, cloud, text


def bare(text: str) -> str:
    return "".join(text.split()).lower()


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def n_same(text: str, other: str) -> int:
    pairs = enumerate(zip(text, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(text), len(other)))


def n_unlike(text: str, other: str) -> int:
    """Length of the part in which they differ."""
    n = n_same(text, other)
    text, other = text[n:], other[n:]
    return max(len(text), len(other)) - n_same(text[::-1], other[::-1])


@every_text
def test_an_answer_that_is_repeated_is_joined_exactly(name: str) -> None:
    for case, _, answer, _, text in taken_up(name, ECHOING):
        if "Markdown" in case or "bullets" in case:
            assert letters(text) == letters(answer), case
        else:
            assert text == answer, case


@every_text
def test_a_wrong_letter_in_the_repetition_doubles_nothing(name: str) -> None:
    """The whole anchor used to come twice. In the last word, a letter or two may be left over."""
    for case, _, answer, _, text in taken_up(name, MISSPELLING):
        assert n_unlike(text, answer) <= 3, case


@every_text
def test_text_that_repeats_nothing_is_neither_lost_nor_doubled(name: str) -> None:
    for case, plan, answer, cloud, text in taken_up(name, SILENT):
        with_talk = plan.shown + plan.pending + cloud
        assert bare(text) in (bare(answer), bare(with_talk)), case


@every_text
@pytest.mark.parametrize("prefill", [False, True])
def test_all_of_another_text_is_shown(name: str, prefill: bool) -> None:
    for case, plan, _, cloud, text in taken_up(name, STRANGE, prefill=prefill):
        assert bare(text) == bare(plan.shown + plan.pending + cloud), case


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {"poem"}))  # it begins with a repetition
def test_a_server_that_ignores_the_prefill_says_nothing_twice(name: str) -> None:
    ignoring: dict[str, Writer] = {
        "anew": lambda plan, answer, chance: answer,
        "after talk": ECHOING["talk, from the start"],
    }
    for case, _, answer, _, text in taken_up(name, ignoring, prefill=True):
        assert text == answer, case


@every_text
def test_a_prefilled_turn_continues(name: str) -> None:
    for case, _, answer, _, text in taken_up(name, {"rest": SILENT["the rest"]}, prefill=True):
        assert text == answer, case
