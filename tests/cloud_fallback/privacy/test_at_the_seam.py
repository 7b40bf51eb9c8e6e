"""An answer that holds private texts is cut anywhere, goes on in the cloud and comes back whole."""

from __future__ import annotations

import re

import msgspec
import pytest

from spillover.cloud_fallback.privacy.redactor import Redacted, Redactor
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.cloud_fallback.seam.machine import SeamMachine
from spillover.runtime.request import GenerationRequest, Message

REDACTOR = Redactor()
ASKED = (
    "I am john.doe@example.com, my card is 4111 1111 1111 1111, my phone is +49 30 901820, "
    "the key is sk-abcdefghijklmnop123456 and the server is 203.0.113.77."
)
PRIVATE = {
    "[EMAIL_1]": "john.doe@example.com",
    "[CARD_1]": "4111 1111 1111 1111",
    "[PHONE_1]": "+49 30 901820",
    "[SECRET_1]": "sk-abcdefghijklmnop123456",
    "[IP_ADDRESS_1]": "203.0.113.77",
}
CLOUDS_ANSWER = (
    "Thank you. I have charged the card [CARD_1] today and sent the receipt to [EMAIL_1], as you "
    "asked. Should it not come, we will call [PHONE_1] or log in at [IP_ADDRESS_1] with the key "
    "[SECRET_1] and look for it."
)
ANSWER = CLOUDS_ANSWER
for name, private in PRIVATE.items():
    ANSWER = ANSWER.replace(name, private)
REQUEST = GenerationRequest(messages=(Message(role="user", content=ASKED),))
SHORTEST = 20


def in_a_known_beginning(cut: int) -> bool:
    """Whether so little of a private text is said that it could still be anything."""
    return any(
        0 < cut - match.start() < 12
        for private in PRIVATE.values()
        for match in re.finditer(re.escape(private), ANSWER)
    )


def go_on(plan: Continuation, redacted: Redacted, text: str) -> str:
    machine, restorer = SeamMachine(plan), redacted.restorer()
    pieces = []
    for start in range(0, len(text), 3):
        pieces += machine.feed(restorer.feed(text[start : start + 3]), 0.0)
    pieces += machine.feed(restorer.flush(), 0.0)
    pieces += machine.end()
    assert all(isinstance(piece, str) for piece in pieces)
    return "".join(map(str, pieces))


def no_private_text_in(redacted: Redacted) -> None:
    encoded = msgspec.json.encode(redacted.request).decode()
    assert not [private for private in PRIVATE.values() if private in encoded]
    for part in ("1111 1", "doe@", "@example", "9018", "ijklmnop", "113.77"):
        assert part not in encoded, encoded


@pytest.mark.parametrize("cut", range(SHORTEST, len(ANSWER)))
def test_the_echo_of_an_anchor_joins_wherever_the_answer_was_cut(cut: int) -> None:
    said = ANSWER[:cut]
    plan = plan_continuation(REQUEST, said)
    redacted = REDACTOR.redact(plan.request, partial=plan.shown)
    no_private_text_in(redacted)
    partial, notice = (message.content for message in redacted.request.messages[-2:])
    if not CLOUDS_ANSWER.startswith(partial):
        assert in_a_known_beginning(cut)
        return
    quoted = re.search("«(.*)»", notice, re.DOTALL)
    assert quoted
    text = quoted[1] + CLOUDS_ANSWER[len(partial) :]
    assert said + go_on(plan, redacted, text) == ANSWER


@pytest.mark.parametrize("cut", range(SHORTEST, len(ANSWER)))
def test_a_prefilled_turn_continues_wherever_the_answer_was_cut(cut: int) -> None:
    said = ANSWER[:cut]
    plan = plan_continuation(REQUEST, said, prefill=True)
    redacted = REDACTOR.redact(plan.request, partial=plan.shown)
    no_private_text_in(redacted)
    partial = redacted.request.messages[-1].content
    if not CLOUDS_ANSWER.startswith(partial):
        assert in_a_known_beginning(cut)
        return
    assert said + go_on(plan, redacted, CLOUDS_ANSWER[len(partial) :]) == ANSWER


@pytest.mark.parametrize("cut", range(SHORTEST, len(ANSWER), 7))
def test_a_raw_prompt_joins_too(cut: int) -> None:
    request = GenerationRequest(prompt=f"{ASKED}\n\n")
    plan = plan_continuation(request, ANSWER[:cut])
    redacted = REDACTOR.redact(plan.request, partial=plan.shown)
    no_private_text_in(redacted)
