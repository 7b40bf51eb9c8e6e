"""JSON that is still being written, read in pieces; and one spelling for what has several."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.text.json_reader import JsonReader, normalize_escapes
from tests.runtime.text.pieces import CUTS, chunks

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(value=VALUES, cuts=CUTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_every_beginning_of_a_document_is_good(
    value: object, cuts: list[int], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    progress = JsonReader(alone=True)
    for chunk in chunks(text, cuts):
        progress.feed(chunk)
        assert progress.error_at is None
    assert progress.is_complete


def is_json(text: str) -> bool:
    def reject(_name: str) -> None:
        raise ValueError

    try:
        json.loads(text, parse_constant=reject)
    except ValueError:
        return False
    return True


@given(text=st.text('{}[]",:0123-.eE truefalsn\\u/ \n', max_size=24), cuts=CUTS)
def test_complete_means_that_a_parser_takes_it(text: str, cuts: list[int]) -> None:
    progress = JsonReader(alone=True)
    for chunk in chunks(text, cuts):
        progress.feed(chunk)
    assert progress.is_complete == is_json(text)


@given(value=VALUES, place=st.integers(0, 200), char=st.sampled_from('{}[]",:x\n-'))
def test_an_error_marks_where_no_document_can_continue(
    value: object, place: int, char: str
) -> None:
    text = json.dumps(value)
    place %= len(text) + 1
    broken = text[:place] + char + text[place:]
    progress = JsonReader(alone=True)
    progress.feed(broken)
    if progress.error_at is None:
        return
    before = JsonReader(alone=True)
    before.feed(broken[: progress.error_at])
    assert before.error_at is None
    assert not is_json(broken)
    after = JsonReader(alone=True)
    after.feed(broken[: progress.error_at + 1])
    assert after.error_at == progress.error_at


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_a_document_is_read_to_its_end_and_no_further(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    document = JsonReader()
    for character in text:
        assert document.feed(character) == 1
        assert not document.is_broken
    if text[-1] in '"]}':
        assert document.has_ended
        assert document.feed(" more") == 0


@given(VALUES.map(json.dumps), st.data())
def test_what_json_refuses_is_never_complete(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    wrong = text[:at] + data.draw(st.sampled_from('{}[]",:0-e.\\tn \n')) + text[at:]
    document = JsonReader()
    n = document.feed(wrong)
    try:
        json.loads(wrong)
    except ValueError:
        assert document.is_broken or not document.has_ended or wrong[n:].strip()
    else:
        assert not document.is_broken


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ('{"a": "b', 0),
        ('{"a": "b\\', 1),
        ('{"a": "b\\\\', 0),
        ('{"a": "b\\n', 0),
        ('{"a": "\\u12', 4),
        ('{"a": "\\u1234', 0),
        ('{"a": "\\uD83D', 6),
        ('{"a": "\\uD83D\\', 7),
        ('{"a": "\\uD83D\\uDE', 10),
        ('{"a": "\\uD83D\\uDE00', 0),
        ('{"a": "\\uD83Dx', 0),
        ('{"a": "\\uD83D\\uD83D', 6),
        ("nothing \\u12", 0),
    ],
)
def test_a_cut_escape_is_seen(text: str, n: int) -> None:
    document = JsonReader()
    document.feed(text)
    assert document.n_cut_escape == n


@pytest.mark.parametrize(
    ("text", "at"),
    [("[" * 600, 512), ("[" + "1" * 500, 401), ("[-01", 3), ("nul]", 3), ('{"a"}', 4), ("[1}", 2)],
)
def test_a_document_breaks_where_it_cannot_continue(text: str, at: int) -> None:
    document = JsonReader()
    assert document.feed(text) == at
    assert document.error_at == at


def test_a_document_begins_as_it_must() -> None:
    for opening, text in (("{", " {}"), ("[", "[1]")):
        good = JsonReader("{" if opening == "{" else "[")
        good.feed(text)
        assert good.is_complete
        bad = JsonReader("[" if opening == "{" else "{")
        bad.feed(text)
        assert bad.error_at == text.index(opening)


# Spellings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "spelled"),
    [
        (r'{"a": "\u00e9t\u00E9', '{"a": "été'),
        (r'{"a": "\ud83e\udd8a fox', '{"a": "🦊 fox'),
        (r'{"a": "1\/2', '{"a": "1/2'),
        (r'{"a": "\u000a\u0022\u005c\u0001', r'{"a": "\n\"\\\u0001'),
        (r'{"a": "\\u00e9', r'{"a": "\\u00e9'),
        (r'{"a": "\ud83e', r'{"a": "\ud83e'),
        (r'{"a": "\ud83e\udd', r'{"a": "\ud83e\udd'),
        (r'{"a": "\u00e', r'{"a": "\u00e'),
        ('{"a": "\\', '{"a": "\\'),
    ],
)
def test_the_beginning_of_a_document_in_one_spelling(begun: str, spelled: str) -> None:
    assert normalize_escapes(begun) == spelled


@given(st.text(), st.booleans())
def test_it_says_the_same(text: str, ascii_only: bool) -> None:
    document = json.dumps([text], ensure_ascii=ascii_only)
    assert json.loads(normalize_escapes(document)) == [text]
    assert normalize_escapes(normalize_escapes(document)) == normalize_escapes(document)
