"""Lines of an answer end between words."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.edge_server.commands.output import AnswerOutput
from spillover.edge_server.commands.terminal.word_wrap import WordWrap


def screen(written: str, n_columns: int) -> list[str]:
    """The lines of a terminal of so many columns that gets *written*."""
    lines: list[list[str]] = [[]]
    at = 0
    for part in written.replace("\x1b[K", "\x00"):
        match part:
            case "\n":
                lines.append([])
                at = 0
            case "\b":
                at -= 1
                assert at >= 0
            case "\x00":
                del lines[-1][at:]
            case _:
                lines[-1][at:] = [part]
                at += 1
                assert at < n_columns, "the last column was filled"
    return ["".join(line) for line in lines]


def shown(pieces: list[str], n_columns: int) -> list[str]:
    wrap = WordWrap(lambda: n_columns)
    return screen("".join(map(wrap.feed, pieces)), n_columns)


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_word_that_does_not_fit_goes_to_the_next_line(cut: int) -> None:
    text = "Once upon a time"
    assert shown([text[:cut], text[cut:]], 11) == ["Once upon ", "a time"]


def test_a_word_longer_than_a_line_is_cut() -> None:
    assert shown(["x " + "abcdefgh"], 6) == ["x ", "abcde", "fgh"]


def test_lines_that_fit_stay_as_they_are() -> None:
    assert shown(["a b\n\n  c\td\n"], 40) == ["a b", "", "  c\td", ""]


def test_a_blank_at_the_edge_adds_no_line() -> None:
    assert shown(["Once upon a \n\nb"], 12) == ["Once upon a", "", "b"]


def test_chinese_is_broken_anywhere() -> None:
    wrap = WordWrap(lambda: 8)
    assert wrap.feed("\u4e00\u4e8c\u4e09\u56db") == "\u4e00\u4e8c\u4e09\n\u56db"


def test_a_resized_terminal_has_lines_of_its_new_width() -> None:
    width = 40
    wrap = WordWrap(lambda: width)
    first = wrap.feed("one two\n")
    width = 6
    assert screen(first + wrap.feed("one two"), 40) == ["one two", "one ", "two"]


@given(st.lists(st.text("ab \n", max_size=12), max_size=12), st.integers(4, 30))
def test_no_word_is_lost_and_none_that_fits_is_cut(pieces: list[str], n_columns: int) -> None:
    words = "".join(pieces).split()
    lines = shown(pieces, n_columns)
    if all(len(word) < n_columns for word in words):
        assert " ".join(lines).split() == words
    assert "".join(lines).replace(" ", "") == "".join(words)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "wraps", "written"),
    [
        (Terminal(), True, "a b c\b\x1b[K\ncd"),
        (Terminal(), False, "a b cd"),
        (io.StringIO(), True, "a b cd"),
    ],
)
def test_only_text_for_people_at_a_terminal_is_wrapped(
    stream: io.StringIO, wraps: bool, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of JSON stays one line."""
    monkeypatch.setenv("COLUMNS", "6")
    monkeypatch.setenv("TERM", "xterm")
    AnswerOutput(stream, wraps=wraps).write("a b cd")
    assert stream.getvalue() == written


def test_what_stands_beside_the_text_counts_in_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the note on a handoff, lines went on beyond the edge of the terminal."""
    monkeypatch.setenv("COLUMNS", "12")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    note = AnswerOutput(stream)
    text = AnswerOutput(stream, beside=note)
    text.write("One ")
    note.write("[note] ")
    text.write("two")
    assert screen(stream.getvalue(), 12) == ["One [note] ", "two"]


def test_a_terminal_that_follows_no_sequences_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "6")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    AnswerOutput(stream, dim=True).write("a b cd")
    assert stream.getvalue() == "a b cd"
