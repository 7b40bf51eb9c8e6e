"""What cannot be redacted stays on the device, and nothing shows it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.cloud_fallback.privacy import finder
from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.runtime.request import (
    GenerationRequest,
    JsonSchema,
    Lark,
    NamedTool,
    Regex,
    Tool,
    ToolCall,
)

from .redacting import CARD, KEY, MAIL, REDACTOR, conversation, said


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(prompt=(1, 2, 3)),
        conversation("hi", tools=(Tool(name=KEY),)),
        conversation("hi", tool_choice=NamedTool(name=KEY)),
        conversation("hi", response_format=Regex(pattern=MAIL)),
        conversation("hi", response_format=Lark(grammar=f'start: "{MAIL}"')),
        conversation("hi", response_format=JsonSchema(schema={}, name=KEY)),
        conversation("hi", tools=(Tool(name="t", parameters={"properties": {MAIL: {}}}),)),
        conversation("hi", tools=(Tool(name="t", parameters={"type": MAIL}),)),
        GenerationRequest(messages=(said("tool", "x", tool_call_id=MAIL),)),
        GenerationRequest(
            messages=(
                said("assistant", "", tool_calls=(ToolCall(id=KEY, name="n", arguments="{}"),)),
            )
        ),
        conversation("a \ud83d b", f"{MAIL}"),
        conversation(MAIL, tools=(Tool(name="t", parameters={"x": "\ud83d"}),)),
    ],
)
def test_text_that_cannot_be_redacted_stays_on_the_device(request_: GenerationRequest) -> None:
    with pytest.raises(RedactionFailed) as caught:
        REDACTOR.redact(request_)
    assert MAIL not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_known_private_text_in_a_name_stays_on_the_device() -> None:
    request = conversation("password: abcdef_42", tools=(Tool(name="abcdef_42"),))
    with pytest.raises(RedactionFailed):
        REDACTOR.redact(request)


def test_a_json_too_deep_to_look_through_stays_on_the_device() -> None:
    value: Any = MAIL
    for _ in range(3000):
        value = [value]
    with pytest.raises(RedactionFailed):
        REDACTOR.redact(conversation("hi", template_kwargs={"x": value}))


def test_a_detector_that_breaks_keeps_the_request_on_the_device_and_quiet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str) -> None:
        raise ValueError(text)

    monkeypatch.setattr(finder, "emails", broken)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(RedactionFailed) as caught:
        Redactor().redact(conversation(MAIL))
    assert MAIL not in f"{caught.value} {caught.value.__cause__} {caplog.text}"
    assert caught.value.__suppress_context__


def test_nothing_shows_what_was_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    redacted = REDACTOR.redact(conversation(f"{MAIL} {CARD} {KEY}"))
    shown = f"{redacted!r} {redacted.restorer()!r} {vars(redacted)} {caplog.text}"
    assert MAIL not in shown
    assert KEY not in shown
