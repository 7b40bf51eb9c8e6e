"""Stop strings, and what the client has, across the legs of an answer."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spillover.cloud_fallback.events import Replace
from spillover.cloud_fallback.seam.answer_text import AnswerText, Piece
from spillover.runtime.chat.pipeline import TextPipeline
from tests.answers import first_stop

STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple)


class Client:
    def __init__(self) -> None:
        self.text = ""

    def take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Replace):
                assert piece.keep_chars < len(self.text)
                self.text = self.text[: piece.keep_chars]
            else:
                self.text += piece


def test_a_stop_string_written_by_two_writers_ends_the_answer() -> None:
    answer, client = AnswerText(("\n\nUser:",)), Client()
    local = TextPipeline(("\n\nUser:",), split_reasoning=False)
    pieces = [*local.feed(b"All is well.\n\nUs"), *local.feed(b"er"), *local.flush()]
    for piece in pieces:
        assert isinstance(piece, tuple)
        client.take(answer.feed(piece[1]))
    assert client.text == "All is well."
    assert answer.said == "All is well.\n\nUser"
    client.take(answer.feed(": and"))
    assert answer.stopped == "\n\nUser:"
    client.take(answer.feed(" more"))
    client.take(answer.flush())
    assert client.text == answer.said == "All is well."


def test_text_that_was_not_a_stop_string_is_sent_with_the_next_writers_text() -> None:
    answer, client = AnswerText(("\n\nUser:",)), Client()
    client.take(answer.feed("All is well.\n\nUser"))
    assert answer.n_sent == len("All is well.")
    client.take(answer.feed("s like it."))
    client.take(answer.flush())
    assert client.text == answer.said == "All is well.\n\nUsers like it."


def test_held_text_that_is_taken_back_was_never_sent() -> None:
    answer, client = AnswerText(("END",)), Client()
    client.take(answer.feed("One. EN"))
    assert answer.feed(Replace(keep_chars=5)) == []
    client.take(answer.feed("Two."))
    assert client.text == answer.said == "One. Two."


def test_a_stop_string_may_begin_in_what_is_left_after_text_was_taken_back() -> None:
    answer, client = AnswerText(("END",), can_replace=True), Client()
    client.take(answer.feed("One. ENDE"[:7]))
    client.take(answer.feed("JOY"))
    assert client.text == "One. ENJOY"
    client.take(answer.feed(Replace(keep_chars=7)))
    client.take(answer.feed("D of it"))
    assert client.text == answer.said == "One. "
    assert answer.stopped == "END"


def test_what_the_client_has_already_is_not_sent_again() -> None:
    answer = AnswerText((".\n",), sent="One.")
    assert answer.said == "One."
    assert answer.feed(" Two.") == [" Two"]
    assert answer.flush() == ["."]
    assert answer.said == "One. Two."


@pytest.mark.parametrize(
    ("can_replace", "pieces", "said"), [(True, [Replace(keep_chars=3)], "One"), (False, [], "One.")]
)
def test_a_half_sent_stop_string_is_taken_back_only_where_allowed(
    can_replace: bool, pieces: list[Piece], said: str
) -> None:
    answer = AnswerText((".\n",), sent="One.", can_replace=can_replace)
    assert answer.feed("\nTwo") == pieces
    assert answer.stopped == ".\n"
    assert answer.said == said
    assert answer.n_sent == len(said)


@given(STOPS, st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_a_later_leg_finds_the_stop_string_that_one_leg_would(
    stops: tuple[str, ...], sent: str, more: str
) -> None:
    assume(first_stop(sent, stops) == sent)
    answer, client = AnswerText(stops, sent=sent, can_replace=True), Client()
    client.text = sent
    client.take(answer.feed(more))
    client.take(answer.flush())
    assert client.text == answer.said == first_stop(sent + more, stops)


def test_without_stop_strings_text_passes() -> None:
    answer = AnswerText()
    assert answer.feed("One. ") == ["One. "]
    assert answer.feed("") == []
    assert answer.feed(Replace(keep_chars=3)) == [Replace(keep_chars=3)]
    assert answer.said == "One"
    assert answer.n_sent == 3


@given(
    STOPS,
    st.lists(
        st.text("abc", max_size=6) | st.integers(0, 20).map(lambda n: Replace(keep_chars=n)),
        max_size=12,
    ),
)
def test_the_client_gets_the_text_before_the_first_stop_string(
    stops: tuple[str, ...], pieces: list[Piece]
) -> None:
    answer, client, text = AnswerText(stops, can_replace=True), Client(), ""
    for piece in pieces:
        text = text[: piece.keep_chars] if isinstance(piece, Replace) else text + piece
        client.take(answer.feed(piece))
        assert answer.n_sent == len(client.text)
        assert answer.said.startswith(client.text)
        if answer.stopped is not None:
            break
        assert answer.said == text
    client.take(answer.flush())
    assert client.text == answer.said == first_stop(text, stops)
    assert (answer.stopped is not None) == (first_stop(text, stops) != text)
