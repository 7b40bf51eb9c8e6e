"""The many ways in which a model may repeat what it was asked to, and more than that."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from spillover.cloud_fallback.events import Replace
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.cloud_fallback.seam.machine import SeamMachine
from tests.cloud_fallback.seam.corpus import (
    ALL,
    ASKED,
    CHINESE,
    CHORUS,
    CODE,
    PROSE,
    SIZES,
    Client,
    cuts,
    planned,
)

AT = PROSE.index("valley.") + 3


def read(answer: str, at: int, cloud: str, *, can_replace: bool = False) -> Client:
    plan = planned(answer, at, can_replace=can_replace)
    client = Client(plan, answer[:at])
    client.read(cloud, [4])
    return client


def after(plan: Continuation, answer: str) -> str:
    return answer[len(plan.shown) :]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("«", "»"), ("“", "”"), ('"', '"'), ("**", "**"), ("`", "`"), ("« ", " »"), ("... ", "")],
)
@given(st.integers(20, len(PROSE)), SIZES)
def test_quotes_around_the_anchor_are_not_part_of_the_answer(
    opening: str, closing: str, at: int, sizes: list[int]
) -> None:
    plan = planned(PROSE, at)
    cloud = opening + plan.anchor + closing + after(plan, PROSE)
    assert Client(plan, PROSE[:at]).read(cloud, sizes) == PROSE


def test_a_quote_of_the_answers_own_is_kept() -> None:
    answer = 'She stopped. He said "the rain in Spain stays mainly" and left the room at once.'
    at = answer.index('" and')
    plan = planned(answer, at)
    cloud = answer[answer.index('"') :]
    assert Client(plan, answer[:at]).read(cloud, [5]) == answer


@pytest.mark.parametrize(("opening", "closing"), [("“", "”"), ('"', '"'), ("“ ", " ”")])
def test_a_speech_that_ended_before_the_anchor_is_not_its_quote(opening: str, closing: str) -> None:
    """The quotation mark before the anchor used to pass for the model's, and the model's closing
    one came into the answer."""
    answer = 'Mom said, "I am glad you told me." They glued the broken lamp together, and left.'
    at = answer.index(" left")
    plan = planned(answer, at)
    assert plan.anchor.startswith("They")
    cloud = opening + plan.anchor + closing + after(plan, answer)
    assert Client(plan, answer[:at]).read(cloud, [3]) == answer


@given(
    st.integers(20, len(PROSE)), st.sampled_from(["```\n", "```text\n", "Sure:\n\n```\n"]), SIZES
)
def test_a_fence_around_everything_is_taken_off(at: int, fence: str, sizes: list[int]) -> None:
    plan = planned(PROSE, at)
    cloud = fence + plan.anchor + after(plan, PROSE) + "\n```"
    assert Client(plan, PROSE[:at]).read(cloud, sizes).rstrip("\n") == PROSE


@given(st.integers(CODE.index("def") + 9, CODE.index("```\n\nThen")), SIZES)
def test_a_reopened_code_block_continues(at: int, sizes: list[int]) -> None:
    plan = planned(CODE, at)
    cloud = "```python\n" + plan.anchor + after(plan, CODE)
    assert Client(plan, CODE[:at]).read(cloud, sizes) == CODE


@given(cuts(), st.data())
def test_an_echo_may_begin_further_back_than_was_asked(
    cut: tuple[str, int], data: st.DataObject
) -> None:
    answer, at = cut
    plan = planned(answer, at)
    if plan.join != "echo":
        return
    begin = data.draw(st.integers(0, len(plan.shown) - len(plan.anchor)))
    assert Client(plan, answer[:at]).read(answer[begin:], data.draw(SIZES)) == answer


def test_the_last_words_alone_are_an_overlap() -> None:
    client = read(PROSE, AT, "down on the val" + PROSE[AT:])
    assert client.text == PROSE
    assert client.seam.settled == "overlap"


def test_half_a_word_is_not_an_overlap() -> None:
    said = "This is about what people mean when they say standardisation"
    client = read(said, len(said), "ardisation, which nobody likes to spell out in full each time")
    assert client.seam.settled == "unverified"


def test_words_that_occur_twice_are_no_overlap() -> None:
    said = "He called ha ha ha ha ha ha and they all answered ha ha ha ha ha ha"
    client = read(
        said, len(said), " ha ha ha ha ha ha and fell silent. Nobody had ever heard it so."
    )
    assert client.text == said + " ha ha ha ha ha ha and fell silent. Nobody had ever heard it so."
    assert client.seam.settled == "unverified"


def test_text_without_an_echo_is_neither_lost_nor_doubled() -> None:
    client = read(PROSE, AT, PROSE[AT:] + " And then it was all quiet in the woods. " * 8)
    assert client.text == PROSE + " And then it was all quiet in the woods. " * 8
    assert client.seam.settled == "unverified"


def test_an_anchor_that_occurs_again_later_changes_nothing() -> None:
    plan = planned(PROSE, AT)
    again = f" And once more: {plan.anchor} of all valleys."
    client = Client(plan, PROSE[:AT])
    assert client.read(plan.anchor + after(plan, PROSE) + again, [7]) == PROSE + again
    assert client.seam.settled == "anchor"


def test_a_refrain_is_not_taken_for_the_anchor() -> None:
    first = "Two foxes went up the hill.\nOh the rain in the valley, the rain on us all!\n"
    second = "Two badgers came down the road.\nOh the rain in the valley, the rain on us all!\n"
    client = read(first, len(first), second + "That is the song." * 20)
    assert client.text == first + second + "That is the song." * 20
    assert client.seam.settled == "unverified"


def test_an_anchor_shorter_than_wished_is_the_whole_answer() -> None:
    said = "Foxes are"
    assert planned(said, len(said)).anchor == said
    assert read(said, len(said), "Foxes are small.").text == "Foxes are small."


@pytest.mark.parametrize("can_replace", [False, True])
def test_a_misquoted_last_word_stands_as_it_was_sent(can_replace: bool) -> None:
    said = "The quick brown fox and the badgers went to recieve"
    cloud = planned(said, len(said)).anchor.replace("recieve", "receive") + " it from the owl."
    client = read(said, len(said), cloud, can_replace=can_replace)
    assert client.text == said + " it from the owl."
    assert client.n_replaced == 0


def test_a_preamble_without_an_echo_is_dropped_when_it_speaks_of_the_interruption() -> None:
    client = read(PROSE, AT, "Continuing from where I left off:\n" + PROSE[AT:] + "x" * 250)
    assert client.text == PROSE + "x" * 250
    assert client.seam.settled == "unverified"


def test_an_echo_that_never_ends_adds_nothing() -> None:
    plan = planned(PROSE, AT)
    client = Client(plan, PROSE[:AT])
    assert client.read(plan.anchor[:-6], [5]) == PROSE[:AT]


def test_a_chinese_overlap_needs_no_spaces() -> None:
    at = CHINESE.index("夜里")
    client = read(CHINESE, at, CHINESE[at - 9 :])
    assert client.text == CHINESE
    assert client.seam.settled == "overlap"


@pytest.mark.parametrize("can_replace", [False, True])
def test_a_restart_that_goes_another_way(can_replace: bool) -> None:
    way = PROSE.index("3.15")
    other = PROSE[:way] + "noon, everybody went home, where it was warm, and read a book."
    client = read(PROSE, AT, other, can_replace=can_replace)
    if can_replace:
        assert client.text == other
        assert client.n_replaced == 1
        assert client.seam.settled == "restart"
    else:
        assert client.text == PROSE[:AT] + "\n\n" + other[other.index("Then, at") :]
        assert client.seam.settled == "unverified"


@given(st.sampled_from([PROSE, CODE, ALL["marks"], ALL["links"]]), st.text(max_size=9), st.data())
def test_a_restart_that_goes_another_way_is_taken_as_it_is(
    answer: str, other: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(100, len(answer)))
    way = data.draw(st.integers(99, at - 1))
    assume(any(map(str.isalnum, answer[way:at])))  # marks may be left out
    plan = planned(answer, at, can_replace=True)
    cloud = f"{answer[:way]}¤{other} and all of it was written in another way. "
    client = Client(plan, answer[:at])
    assert bare(client.read(cloud, data.draw(SIZES))) == bare(cloud)
    assert client.seam.settled == "restart"


@pytest.mark.parametrize("mark", ["\u0300", "…"])
def test_no_character_is_split_where_text_is_taken_back(mark: str) -> None:
    said = PROSE[:100] + ("e\u0301." if mark != "…" else "x.") + " And that is not at all the end"
    cloud = PROSE[:100] + ("e" if mark != "…" else "x") + mark + " But this is another end of it."
    assert read(said, len(said), cloud, can_replace=True).text == cloud


def test_a_restart_is_followed_through_rows_that_are_all_the_same() -> None:
    answer = "| Name | Age |\n|---|---|\n" + "| Ann | 31 |\n" * 60 + "| Bob | 32 |\n"
    at = len(answer) - 20
    client = read(answer, at, answer)
    assert client.text == answer
    assert client.seam.settled == "restart"


def test_a_restart_with_another_word_in_the_middle_is_followed_to_the_end() -> None:
    other = PROSE.replace("happen next… Then", "happen next… And then")
    client = read(PROSE, AT, other)
    assert client.text == PROSE
    assert client.seam.settled == "restart"


# Whatever comes ----------------------------------------------------------------------------


@st.composite
def anything(draw: st.DrawFn) -> tuple[str, int, str]:
    """An answer, a cut, and a text that may repeat any part of it or be about anything else."""
    answer, at = draw(cuts())
    words = st.sampled_from(
        [
            "Sure! ",
            "\n\n",
            "```\n",
            "«",
            "»",
            " ",
            "The ",
            "x",
            "é",
            "👍",
            "Here is the rest:\n",
            "\\",
        ]
    )
    slices = st.tuples(st.integers(0, len(answer)), st.integers(0, 90)).map(
        lambda place: answer[place[0] : place[0] + place[1]]
    )
    return answer, at, "".join(draw(st.lists(words | slices, max_size=8)))


def outcome(plan: Continuation, cloud: str, sizes: list[int]) -> tuple[str, object, list[int]]:
    seam = SeamMachine(plan)
    at, pieces = 0, []
    while at < len(cloud):
        for size in sizes or [len(cloud)]:
            pieces += seam.feed(cloud[at : at + size], 0.0)
            at += size
    pieces += seam.end()
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    return text, seam.settled, [p.keep_chars for p in pieces if isinstance(p, Replace)]


@given(anything(), st.booleans(), st.booleans(), SIZES)
def test_the_outcome_does_not_depend_on_the_pieces(
    case: tuple[str, int, str], can_replace: bool, prefill: bool, sizes: list[int]
) -> None:
    answer, at, cloud = case
    plan = plan_continuation(ASKED, answer[:at], can_replace=can_replace, prefill=prefill)
    assert outcome(plan, cloud, sizes) == outcome(plan, cloud, [])


@given(anything(), st.booleans(), SIZES)
def test_only_a_client_that_wants_it_sees_text_taken_back(
    case: tuple[str, int, str], can_replace: bool, sizes: list[int]
) -> None:
    answer, at, cloud = case
    plan = plan_continuation(ASKED, answer[:at], can_replace=can_replace)
    text = Client(plan, answer[:at]).read(cloud, sizes)
    assert can_replace or text.startswith(answer[:at])


def bare(text: str) -> str:
    return "".join(text.split()).lower()


@given(st.sampled_from([PROSE, CHINESE, ALL["right_to_left"], ALL["marks"], CHORUS]), st.data())
def test_nothing_is_lost_where_nothing_is_repeated(answer: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(20, len(answer)))
    plan = planned(answer, at)
    more = "\n\nWhat comes now was never said before, and more of it than is held at most. "
    client = Client(plan, answer[:at])
    client.read(more * 4, data.draw(SIZES))
    assert client.seam.settled == "unverified"
    assert bare(client.text) == bare(answer[:at] + more * 4)


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_cut_loses_or_doubles_text_that_continues_without_an_echo(name: str) -> None:
    answer = ALL[name]
    for at in range(1, len(answer)):
        plan = planned(answer, at)
        if plan.join == "echo":
            assert bare(Client(plan, answer[:at]).read(answer[at:], [7])) == bare(answer)


@settings(max_examples=300)
@example("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 30, [1])
@given(st.text("ab \n", min_size=1, max_size=200), st.integers(0, 200), SIZES)
def test_the_anchor_of_a_repetitive_text_is_found(text: str, at: int, sizes: list[int]) -> None:
    plan = planned(text, at)
    cloud = text if plan.join != "echo" else plan.anchor + after(plan, text)
    assert Client(plan, text[:at]).read(cloud, sizes) == text
    assert Client(plan, text[:at]).read(text, sizes) == text


@settings(max_examples=300)
@given(st.text(min_size=1, max_size=120), st.integers(0, 120), SIZES)
def test_the_anchor_of_any_text_is_found(text: str, at: int, sizes: list[int]) -> None:
    plan = planned(text, at)
    assume(not plan.left_behind)
    cloud = text if plan.join != "echo" else plan.anchor + after(plan, text)
    assert Client(plan, text[:at]).read(cloud, sizes) == text
