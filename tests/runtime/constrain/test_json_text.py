"""One spelling for what JSON may spell in several ways."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.structured_output.json_text import spelled_out


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
    assert spelled_out(begun) == spelled


@given(st.text(), st.booleans())
def test_it_says_the_same(text: str, ascii_only: bool) -> None:
    document = json.dumps([text], ensure_ascii=ascii_only)
    assert json.loads(spelled_out(document)) == [text]
    assert spelled_out(spelled_out(document)) == spelled_out(document)
