"""The part of a model's text that reaches a terminal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.edge_server.commands.terminal.safe_text import TerminalFilter

HARMFUL = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\t", "\n"}
BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
texts = st.text(
    st.one_of(
        st.sampled_from("\x1b\x1b\x1b[]P^_X\\;?0123mHJ \x07\x18\x9b\x9c\x9d\x90\x8f\n\t\u202ea"),
        st.characters(codec="utf-8"),
    )
)


def shown(*chunks: str) -> str:
    terminal = TerminalFilter()
    return "".join(map(terminal.feed, chunks))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, tab\tand\nnewline, ä 漢 🦊", "plain, tab\tand\nnewline, ä 漢 🦊"),
        ("a\x1b[31mred\x1b[0mb", "aredb"),
        ("a\x1b]52;c;cm0gLXJm\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("a\x9d0;title\x9cb", "ab"),
        ("a\x9b3Jb", "ab"),
        ("a\x1bP1;2|dcs\x1b\\b", "ab"),
        ("a\x1b(Bb", "ab"),
        ("a\x1bcb", "ab"),
        ("a\x1bONb", "ab"),
        ("old line\rnew line", "old linenew line"),
        ("a\x08\x7f\x00\x07b", "ab"),
        ("right\u202eleft", "rightleft"),
        ("a\x1b]0;never ended\nnext line", "a\nnext line"),
        ("a\x1b[1;2\x18b", "ab"),
    ],
)
def test_sequences_and_controls_are_removed(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(texts, st.lists(st.integers(0, 60)))
def test_any_split_gives_the_same_output(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(text)]
    chunks = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert shown(*chunks) == shown(text)


@given(texts)
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    assert not (HARMFUL | BIDI) & set(shown(text))


@given(texts)
def test_filtering_twice_changes_nothing(text: str) -> None:
    once = shown(text)
    assert shown(once) == once


@given(st.text(st.characters(exclude_categories=["Cc", "Cf"])))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert shown(text) == text
