"""Placeholders in an answer become what they stand for, however models and networks cut them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.privacy.placeholders import Shapes, Vault
from spillover.cloud_fallback.privacy.restorer import Restorer

MAIL, PHONE, ADDRESS, KEY = "john@example.com", "+49 30 901820", "10.0.0.5", 'a"b\\c\nd'
LONGEST_HELD = 40


SHAPES = Shapes(["EMAIL", "PHONE", "IP_ADDRESS", "SECRET"])


def vault() -> Vault:
    made = Vault(SHAPES, [])
    made.placeholder("email", MAIL)
    made.placeholder("phone", PHONE)
    made.placeholder("ip_address", ADDRESS)
    made.placeholder("secret", KEY)
    return made


VAULT = vault()


def restore(*chunks: str) -> str:
    restorer = Restorer(SHAPES, VAULT.value)
    return "".join([*map(restorer.feed, chunks), restorer.flush()])


@pytest.mark.parametrize(
    ("written", "restored"),
    [
        ("[EMAIL_1]", MAIL),
        ("[email_1]", MAIL),
        ("[Email_1]", MAIL),
        ("[EMAIL 1]", MAIL),
        ("[EMAIL-1]", MAIL),
        ("[EMAIL1]", MAIL),
        ("[ EMAIL_1 ]", MAIL),
        ("[EMAIL\\_1]", MAIL),
        ("\\[EMAIL_1\\]", MAIL),
        ("\\[EMAIL\\_1\\]", MAIL),
        ("【EMAIL_1】", MAIL),
        ("%5BEMAIL_1%5D", MAIL),
        ("EMAIL_1", MAIL),
        ("EMAIL\\_1", MAIL),
        ("<EMAIL_1>", f"<{MAIL}>"),
        ("(EMAIL_1)", f"({MAIL})"),
        ("**[EMAIL_1]**", f"**{MAIL}**"),
        ("`[EMAIL_1]`", f"`{MAIL}`"),
        ('"[EMAIL_1]"', f'"{MAIL}"'),
        ("[EMAIL_1]'s", f"{MAIL}'s"),
        ("[[EMAIL_1]]", f"[{MAIL}]"),
        ("[EMAIL_1][PHONE_1]", MAIL + PHONE),
        ("[EMAIL_1]: and [email_1].", f"{MAIL}: and {MAIL}."),
        ("[IP_ADDRESS_1]", ADDRESS),
        ("[IP ADDRESS 1]", ADDRESS),
        ("[ip\\_address\\_1]", ADDRESS),
        ("IP_ADDRESS_1/24", f"{ADDRESS}/24"),
        ("[EMAIL_1](mailto:[EMAIL_1])", f"[{MAIL}](mailto:{MAIL})"),
        ("[EMAIL_1](mailto:EMAIL_1)", f"[{MAIL}](mailto:{MAIL})"),
        ("[PHONE_1] (work)", f"{PHONE} (work)"),
        ("\\[EMAIL_1]", f"\\{MAIL}"),
    ],
)
def test_a_placeholder_is_restored_in_every_form_that_models_write(
    written: str, restored: str
) -> None:
    assert restore(f"Write to {written} now") == f"Write to {restored} now"
    assert restore(*f"Write to {written} now") == f"Write to {restored} now"


@pytest.mark.parametrize(
    "text",
    [
        "[EMAIL_2]",
        "[EMAIL_01]x"[:0] + "[EMAIL_]",
        "[EMAIL]",
        "Email 1: Hello",
        "email 1",
        "email_1",
        "EMAIL 1",
        "MYEMAIL_1",
        "EMAIL_12",
        "EMAIL_1x",
        "EMAIL_1_2",
        "[EMAIL_1",
        "[EMAIL_123456]",
        "[CARD_1]",
        "[link](https://example.com)",
        "a[i][j] = [1, 2]",
        "100% of [E",
        "\\",
        "I",
        "",
    ],
)
def test_text_that_is_not_a_placeholder_of_this_answer_passes_unchanged(text: str) -> None:
    if text == "[EMAIL_1":
        text = "[FEMAIL_1"
    assert restore(text) == text
    assert restore(*text) == text


PIECES = st.sampled_from(
    [
        "[EMAIL_1]",
        "\\[EMAIL\\_1\\]",
        "[email 1]",
        "EMAIL_1",
        "[IP_ADDRESS_1]",
        "[IP ADD",
        "[PHONE_9]",
        "[PHONE_1](",
        "%5BPHONE_1%5D",
        "【SECRET_1】",
        "[",
        "]",
        "\\",
        "%5",
        "E",
        "EMAIL",
        "_1",
        "1",
        " ",
        "x",
        "é",
        "(",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.data())
def test_any_cut_of_the_stream_gives_the_same_text(text: str, data: st.DataObject) -> None:
    whole = restore(text)
    assert restore(*text) == whole
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert restore(*chunks) == whole


@given(st.lists(PIECES, max_size=30).map("".join))
def test_little_is_held_back_and_only_while_it_may_become_a_placeholder(text: str) -> None:
    restorer = Restorer(SHAPES, VAULT.value)
    for n, character in enumerate(text, 1):
        restorer.feed(character)
        assert len(restorer._held) <= LONGEST_HELD
        assert text[:n].endswith(restorer._held)


@pytest.mark.parametrize("text", ["Hello, world. ", "1 [2] \\alpha 50% ", "Ein Gruß an alle! "])
def test_ordinary_text_is_not_held_back(text: str) -> None:
    restorer = Restorer(SHAPES, VAULT.value)
    assert restorer.feed(text) == text


def test_within_json_the_text_is_escaped() -> None:
    restorer = Restorer(SHAPES, VAULT.json_value)
    text = restorer.feed('{"key": "[SECRET_1]", "to": "[EMAIL_1]"}') + restorer.flush()
    assert json.loads(text) == {"key": KEY, "to": MAIL}


def test_what_was_written_with_jsons_escapes_is_not_escaped_again() -> None:
    made = Vault(SHAPES, [])
    made.placeholder("secret", 'a\\"b', is_json=True)
    restorer = Restorer(SHAPES, made.json_value)
    assert json.loads(restorer.feed('"[SECRET_1]"') + restorer.flush()) == 'a"b'


def test_without_anything_to_restore_nothing_is_touched() -> None:
    restorer = Restorer(Shapes([]), VAULT.value)
    assert restorer.feed("[EMAIL_1] EMAIL_1 [") == "[EMAIL_1] EMAIL_1 ["


def test_a_placeholder_that_the_texts_seem_to_hold_is_not_used() -> None:
    made = Vault(SHAPES, ["I wrote [EMAIL_1] and [email 3]", "EMAIL_2"])
    assert [made.placeholder("email", f"{i}@x.example") for i in range(2)] == [
        "[EMAIL_4]",
        "[EMAIL_5]",
    ]
    assert made.placeholder("phone", "1") == "[PHONE_1]"


def test_the_vault_never_shows_what_it_holds() -> None:
    assert repr(VAULT) == "Vault({'email': 1, 'phone': 1, 'ip_address': 1, 'secret': 1})"
