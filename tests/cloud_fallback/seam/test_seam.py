"""Time, repairs and costs of a join."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.seam.continuation import plan_continuation
from spillover.cloud_fallback.seam.machine import HOLD_S, SeamMachine
from spillover.cloud_fallback.seam.preamble import may_be_talk, talk_length
from spillover.cloud_fallback.seam.repair import repaired
from spillover.cloud_fallback.seam.stages import Splice, Unwrapped
from tests.cloud_fallback.seam.corpus import ASKED, CODE, PROSE, SIZES, pieces_of

SAID = PROSE[: PROSE.index("the valley")]
REST = PROSE[len(SAID) :]


def seam() -> SeamMachine:
    return SeamMachine(plan_continuation(ASKED, SAID))


def test_text_flows_from_the_first_new_character_on() -> None:
    plan = plan_continuation(ASKED, SAID)
    machine = SeamMachine(plan)
    assert machine.feed(plan.anchor, 0.0) == []
    assert machine.feed(" ", 0.0) == []
    assert machine.feed("t", 0.0) == ["t"]
    assert machine.settled == "anchor"
    assert machine.feed("he v", 0.1) == ["he v"]
    assert machine.trimmed_chars == len(plan.anchor) + 1


def test_after_the_join_text_is_the_same_object() -> None:
    machine = SeamMachine(plan_continuation(ASKED, SAID))
    machine.feed(machine._plan.anchor + REST, 0.0)
    text = "a longer piece of text"
    assert machine.feed(text, 0.0)[0] is text
    assert machine.hold_deadline() is None


def test_a_first_word_waits_for_the_next_unless_it_can_be_taken_back() -> None:
    """It used to stand before the whole answer of another writer if this one broke off."""
    machine = SeamMachine(plan_continuation(ASKED, ""))
    assert machine.feed("That is", 0.0) == []
    assert machine.feed(" it", 0.0) == ["That is it"]
    assert machine.settled == "fresh"
    assert machine.feed("!", 0.0) == ["!"]
    short = SeamMachine(plan_continuation(ASKED, ""))
    assert short.feed("Yes", 0.0) == []
    assert short.end() == ["Yes"]
    free = SeamMachine(plan_continuation(ASKED, "", can_replace=True))
    assert free.feed("Th", 0.0) == ["Th"]
    assert free.trimmed_chars == 0


@pytest.mark.parametrize("text", ["la " * 60, "la la la la, " * 15, "é, . " * 40, "的" * 200])
def test_it_takes_no_time_to_see_that_a_text_is_no_talk(text: str) -> None:
    """A word of several languages used to double the time with each repetition."""
    assert not may_be_talk(text + "x" * 13)
    assert talk_length(text + "\n") == 0


def test_text_in_doubt_is_held_for_a_bounded_time_from_its_first_character() -> None:
    machine = seam()
    assert machine.hold_deadline() is None
    assert machine.feed(" woods", 100.0) == []
    assert machine.hold_deadline() == 100.0 + HOLD_S
    assert machine.on_deadline(101.0) == []
    assert machine.on_deadline(101.5) == ["woods"]
    assert machine.settled == "unverified"
    assert machine.hold_deadline() is None


def test_late_text_is_shown_with_the_text_that_was_held() -> None:
    machine = seam()
    assert machine.feed("Xyz", 100.0) == []
    assert machine.feed(" and", 102.0) == ["Xyz and"]


def test_an_echo_that_has_begun_outlasts_the_deadline() -> None:
    plan = plan_continuation(ASKED, SAID)
    machine = SeamMachine(plan)
    machine.feed(plan.anchor[:20], 0.0)
    assert machine.hold_deadline() is None
    assert machine.on_deadline(99.0) == []
    pieces = machine.feed(plan.anchor[20:] + plan.pending + REST, 99.0)
    assert SAID + "".join(map(str, pieces)) == PROSE


def test_an_empty_answer_adds_nothing() -> None:
    machine = seam()
    assert machine.end() == []
    assert machine.settled == "unverified"


def test_held_text_is_bounded() -> None:
    machine = seam()
    n_held = 0
    for index in range(2000):
        if machine.feed(f" {index}", 0.0):
            break
        n_held += len(f" {index}")
    assert 240 <= n_held <= 310


# Repairs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        ("the lazy", "\n\ndog slept", " dog slept"),
        ("the lazy", " dog slept", " dog slept"),
        ("the la", "zy dog", "zy dog"),
        ("the lazy ", " dog", "dog"),
        ("the lazy", "\n\nDogs sleep", "\n\nDogs sleep"),
        ("It rained.", "Then it stopped", " Then it stopped"),
        ("It rained.", " Then", " Then"),
        ("see example.", "Com", " Com"),
        ("see https://example.", "Com", "Com"),
        ("foo(a)\nx = self.", "Name", "Name"),
        ("It ran", "Into the woods", " into the woods"),
        ("I met", " The Who", " The Who"),
        ("the lazy", "I'm sorry, but no.", "\n\nI'm sorry, but no."),
        ("Java", "Script is", "Script is"),
        ("she loved to eat", "Ruby came", " Ruby came"),
        ("I saw a", "Fox there", " Fox there"),
        ("das", "Haus am See", " Haus am See"),
        ("für", "Übung", " Übung"),
        ("with the", "Fox-Terrier", " Fox-Terrier"),
        ("on an i", "Phone now", "Phone now"),
        ("on a mac", "OS machine", "OS machine"),
        ("call get", "Name() first", "Name() first"),
        ("use setName and get", "Name first", "Name first"),
        ("see my.get", "Name first", "Name first"),
        ("at Mc", "Donald they", "Donald they"),
        ("to", "day it", "day it"),
        ("1. One\n2. ", "2. Two", "Two"),
        ("1. One\n2.", "2. Two", " Two"),
        ("- one\n- ", "- two", "two"),
        ("1. One\n2. Two", "3. Three", "\n3. Three"),
        ("- one\n- two", "- three", "- three"),
        ("| a |\n| b |", "| c |", "\n| c |"),
        ("# Title", "\n\ntext", "\n\ntext"),
        ("- item", "\n\nmore", "\n\nmore"),
        ("```python\nx = 1\n", "```python\ny = 2", "y = 2"),
        ("```python\nx = 1\n", "```\nDone", "```\nDone"),
        ("```\nx = the", "\n\ny", "\n\ny"),
        ("call `area", "\n\n(2)`", "\n\n(2)`"),
        ("", "\n\nx", "\n\nx"),
        ("word", "", ""),
        ("word", "\n\n", "\n\n"),
    ],
)
def test_an_unverified_join_is_smoothed_where_that_is_safe(
    before: str, text: str, after: str
) -> None:
    assert repaired(before, text) == after


@pytest.mark.parametrize(
    ("pending", "text", "new"),
    [
        (" ", " dog", "dog"),
        (" ", "dog", "dog"),
        (" ", "\n\ndog", "\n\ndog"),
        ("\n", "\n\ndog", "\ndog"),
        ("\n\n", "\ndog", "dog"),
        ("\n\n", " dog", "dog"),
        ("\r", "\r\ndog", "\ndog"),
        ("\r", "\ndog", "\ndog"),
        ("\r\n", "\ndog", "dog"),
        ("\n    ", "\n    x", "x"),
        ("\n    ", "\n        x", "    x"),
        ("\n    ", "    x", "    x"),
        ("\n    ", "x", "x"),
        ("\u200d", "\u200d👧 x", "👧 x"),
        (" ", "", ""),
    ],
)
@given(sizes=SIZES)
def test_blanks_that_were_sent_are_not_sent_again(
    pending: str, text: str, new: str, sizes: list[int]
) -> None:
    splice = Splice(pending)
    assert "".join(map(splice.feed, pieces_of(text, sizes))) + splice.flush() == new


@given(SIZES, st.sampled_from(["", "\n", "\n\nAnything else?"]))
def test_only_the_fence_around_everything_is_taken_off(sizes: list[int], after: str) -> None:
    stage = Unwrapped("```")
    inside = "text\n\n```python\nx\n```\n\n~~~\ny\n~~~\nmore\n"
    cloud = inside + "```" + after
    text = "".join(map(stage.feed, pieces_of(cloud, sizes))) + stage.flush()
    assert text == inside + after.removeprefix("\n")


def test_code_keeps_its_indentation() -> None:
    at = CODE.index("return 3")
    plan = plan_continuation(ASKED, CODE[:at])
    assert plan.pending == "\n\n    "
    machine = SeamMachine(plan)
    pieces = machine.feed(plan.anchor + CODE[len(plan.shown) :], 0.0)
    assert CODE[:at] + "".join(map(str, pieces)) == CODE
