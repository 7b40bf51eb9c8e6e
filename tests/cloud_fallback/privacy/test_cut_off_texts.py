"""An answer that was cut off within a private text shows no part of it."""

from __future__ import annotations

import pytest

from spillover.runtime.request import GenerationRequest

from .redacting import CARD, MAIL, REDACTOR, contents, conversation, restored


def notice(anchor: str) -> str:
    return f"I only received it up to this point: «{anchor}» Please go on."


def test_a_card_that_the_end_of_the_answer_cuts_off_is_taken_out_whole() -> None:
    redacted = REDACTOR.redact(
        conversation(f"card: {CARD}", "Your card 4111 1111 11", notice("card 4111 1111 11"))
    )
    assert contents(redacted)[1:] == ["Your card [CARD_1]", notice("card [CARD_1]")]
    assert redacted.rest == "11 1111"
    assert restored(redacted.restorer(), "card [CARD_1], yes") == f"card {CARD}, yes"


def test_by_prefill_the_missing_end_comes_first() -> None:
    request = conversation(f"card: {CARD}", "Your card 4111 1111 11", continue_final_message=True)
    redacted = REDACTOR.redact(request)
    assert contents(redacted)[1] == "Your card [CARD_1]"
    assert restored(redacted.restorer(), ", yes") == "11 1111, yes"
    assert restored(redacted.reasoning_restorer(), ", yes") == ", yes"


def test_a_quotation_that_begins_within_a_private_text_does_not_show_the_rest_of_it() -> None:
    answer = f"Your card {CARD} is valid"
    redacted = REDACTOR.redact(conversation("hi", answer, notice("11 1111 1111 is valid")))
    assert contents(redacted)[2] == notice("[CARD_1] is valid")
    assert restored(redacted.restorer(), "[CARD_1] is valid.") == f"{CARD} is valid."


@pytest.mark.parametrize("n", range(1, 30))
def test_no_quotation_of_any_length_shows_a_part_of_a_card(n: int) -> None:
    answer = f"Your card {CARD} is valid"
    redacted = REDACTOR.redact(conversation("hi", answer, notice(answer[-n:])))
    assert "1111" not in "".join(contents(redacted))


@pytest.mark.parametrize("n", range(6, len(CARD)))
def test_no_cut_through_a_known_card_shows_six_digits_of_it(n: int) -> None:
    answer = f"Your card {CARD[:n]}"
    redacted = REDACTOR.redact(conversation(f"card: {CARD}", answer, notice(answer)))
    assert "4111" not in "".join(contents(redacted))
    assert CARD[:n] + redacted.rest == CARD


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("email", "jane@"),
        ("email", "jane@exam"),
        ("email", "jane@example.c"),
        ("secret", "sk-abcdefgh"),
        ("secret", "ghp_01234567"),
        ("secret", "-----BEGIN PRIVATE KEY-----\nMIIEo"),
        ("iban", "DE89 3704 0044"),
    ],
)
def test_an_unknown_private_text_that_is_cut_off_is_taken_out_as_far_as_it_goes(
    kind: str, end: str
) -> None:
    redacted = REDACTOR.redact(conversation("hi", f"It is {end}", notice(f"It is {end}")))
    assert redacted.counts == {kind: 1}
    assert all(end not in content for content in contents(redacted))
    assert redacted.rest == ""


def test_the_first_letters_of_an_address_are_no_address() -> None:
    redacted = REDACTOR.redact(conversation(f"I am {MAIL}", "Dear john", notice("Dear john")))
    assert contents(redacted)[1] == "Dear john"


def test_an_answer_within_a_notice_is_treated_like_one_in_a_turn_of_its_own() -> None:
    partial = f"Pay with {CARD} or 4111 1111 11"
    request = conversation(f"Continue this text: {partial}\nStart after: «{partial[-9:]}»")
    redacted = REDACTOR.redact(request, partial=partial)
    assert contents(redacted) == [
        "Continue this text: Pay with [CARD_1] or [CARD_1]\nStart after: «[CARD_1]»"
    ]


def test_text_that_is_not_sent_is_not_counted() -> None:
    redacted = REDACTOR.redact(conversation("hi"), partial=f"Your card {CARD}")
    assert redacted.n_redactions == 0


def test_a_raw_prompt_is_an_unfinished_text_too() -> None:
    redacted = REDACTOR.redact(GenerationRequest(prompt=f"{CARD} and 4111 1111 11"))
    assert redacted.request.prompt == "[CARD_1] and [CARD_1]"
    assert restored(redacted.restorer(), "!") == "11 1111!"
