"""An answer that must be one JSON document is one, whoever wrote which part of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.errors import CannotContinue, SeamFailed
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.runtime.request import GenerationRequest, JsonObject, Message, Regex
from tests.cloud_fallback.seam.corpus import DOCUMENT, SIZES, Client

ASKED = GenerationRequest(
    messages=(Message(role="user", content="Describe the fox as JSON."),),
    response_format=JsonObject(),
)
VALUE = json.loads(DOCUMENT)
SPELLINGS = {
    "same": DOCUMENT,
    "compact": json.dumps(VALUE, separators=(",", ":")),
    "pretty": json.dumps(VALUE, indent=2, ensure_ascii=False),
}
AT = DOCUMENT.index('"price"')
PLACES = st.integers(0, len(DOCUMENT))


def planned(at: int, *, can_replace: bool = False) -> Continuation:
    return plan_continuation(ASKED, DOCUMENT[:at], can_replace=can_replace)


@given(PLACES, SIZES)
def test_a_document_is_joined_to_its_echo_at_any_cut(at: int, sizes: list[int]) -> None:
    plan = planned(at)
    cloud = DOCUMENT if plan.join != "rewrite" else plan.anchor + DOCUMENT[len(plan.shown) :]
    assert Client(plan, DOCUMENT[:at]).read(cloud, sizes) == DOCUMENT


@pytest.mark.parametrize("fence", ["", "```json\n", "Here is the JSON again:\n\n```json\n"])
@given(PLACES, st.sampled_from(["same", "compact", "pretty"]), st.booleans(), SIZES)
def test_a_document_is_joined_to_its_own_repetition(
    fence: str, at: int, spelling: str, can_replace: bool, sizes: list[int]
) -> None:
    plan = planned(at, can_replace=can_replace)
    after = "\n```\nLet me know if you need more!" if fence else "\n"
    cloud = fence + SPELLINGS[spelling] + after
    client = Client(plan, DOCUMENT[:at])
    try:
        text = client.read(cloud, sizes)
    except SeamFailed:
        # Spelled another way: é for \u00e9, -12500.0 for -12.50e+3. Then nothing is shown.
        assert spelling != "same"
        assert not can_replace
        assert DOCUMENT[:at].startswith(client.text)
    else:
        assert json.loads(text) == VALUE


def test_a_cut_escape_continues_as_the_character_it_stands_for() -> None:
    begin = DOCUMENT.index(r"\uD83D")
    for n in range(1, 12):
        plan = planned(begin + n)
        assert plan.shown == DOCUMENT[:begin].rstrip()
        client = Client(plan, DOCUMENT[: begin + n])
        rest = DOCUMENT[begin:].replace(r"\uD83D\uDE00", "😀").replace(r"\u00e9", "é")
        assert json.loads(client.read(DOCUMENT[:begin] + rest, [3])) == VALUE


def test_an_escape_that_continues_differently_is_never_shown() -> None:
    at = DOCUMENT.index(r"\uD83D") + 4
    client = Client(planned(at), DOCUMENT[:at])
    with pytest.raises(SeamFailed):
        client.read(DOCUMENT[: at - 4] + "and more" + DOCUMENT[at + 8 :], [3])
    assert client.text == DOCUMENT[:at]


@given(st.integers(10, len(DOCUMENT) - 1), SIZES)
def test_a_continuation_without_an_echo_is_shown_once_the_document_is_complete(
    at: int, sizes: list[int]
) -> None:
    plan = planned(at)
    client = Client(plan, DOCUMENT[:at])
    client.read(DOCUMENT[at:], sizes)
    assert client.text == DOCUMENT
    assert client.seam.settled in ("unverified", "overlap")


@pytest.mark.parametrize(
    "cloud",
    [
        "I am sorry, I cannot help with that. " * 10,
        '{"title": "Another one", "body": "It has nothing in common with the first."}' + " " * 300,
        DOCUMENT[:AT] + '"other": 1}' + " " * 400,
        "",
    ],
)
def test_text_that_cannot_become_one_document_is_never_shown(cloud: str) -> None:
    at = AT + 10
    client = Client(planned(at), DOCUMENT[:at])
    with pytest.raises(SeamFailed):
        client.read(cloud, [5])
    assert client.text == DOCUMENT[:at]


@pytest.mark.parametrize(
    "cloud", ['{"title": "Another", "n": [1, 2]}', DOCUMENT[:AT] + '"other": 1}' + " " * 300]
)
def test_another_document_takes_the_place_of_the_first_where_it_may(cloud: str) -> None:
    client = Client(planned(AT + 10, can_replace=True), DOCUMENT[: AT + 10])
    text = client.read(cloud, [5])
    assert json.loads(text) == json.loads(cloud)
    assert client.seam.settled == "restart"


def test_a_writer_that_talks_instead_is_left_at_once() -> None:
    client = Client(planned(AT + 10), DOCUMENT[: AT + 10])
    with pytest.raises(SeamFailed):
        client.take(client.seam.feed("I am sorry, I cannot help with that. " * 12, 0.0))


def test_braces_in_talk_are_no_document() -> None:
    client = Client(planned(AT + 10, can_replace=True), DOCUMENT[: AT + 10])
    with pytest.raises(SeamFailed):
        client.read("I would write a pair of braces there, like {}, and that is all I know.", [5])


def test_time_does_not_show_a_document_that_may_be_broken() -> None:
    plan = planned(70)
    client = Client(plan, DOCUMENT[:70])
    client.take(client.seam.feed("hm", 0.0))
    assert client.seam.hold_deadline() is None
    client.take(client.seam.on_deadline(1000.0))
    assert client.text == DOCUMENT[:70]


def test_other_formats_are_joined_only_where_the_text_follows() -> None:
    request = GenerationRequest(messages=ASKED.messages, response_format=Regex(pattern="[0-9 ]+"))
    said = "1 2 3 4 5 6 7 8 9 10 11 12"
    plan = plan_continuation(request, said)
    assert Client(plan, said).read(said + " 13 14", [3]) == said + " 13 14"
    with pytest.raises(SeamFailed):
        Client(plan, said).read("fifteen, sixteen and so on " * 20, [3])


def test_a_document_with_leaked_tokens_in_it_is_lost() -> None:
    said = DOCUMENT[:60] + "<|im_end|>\n<|im_start|>"
    with pytest.raises(CannotContinue):
        plan_continuation(ASKED, said)
    assert plan_continuation(ASKED, said, can_replace=True).takes_back
