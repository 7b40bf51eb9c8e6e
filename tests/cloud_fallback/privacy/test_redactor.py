"""Nothing private leaves in any part of a request, and the answer reads as if it had."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.cloud_fallback.privacy.settings import PrivacySettings, UserPattern
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    ResponseFormat,
    Tool,
    ToolCall,
)
from spillover.runtime.sampling import Sampling

from .corpora import HARMLESS, PRIVATE, unmarked
from .redacting import CARD, MAIL, REDACTOR, contents, conversation, restored, said


def test_private_texts_are_replaced_by_names_and_put_back_in_the_answer() -> None:
    redacted = REDACTOR.redact(conversation(f"I am {MAIL}, my card is {CARD}."))
    assert contents(redacted) == ["I am [EMAIL_1], my card is [CARD_1]."]
    assert redacted.counts == {"email": 1, "card": 1}
    assert redacted.n_redactions == 2
    assert restored(redacted.restorer(), "Hello [EMAIL_1]!") == f"Hello {MAIL}!"
    assert (
        restored(redacted.reasoning_restorer(), "The user is [EMAIL_1].") == f"The user is {MAIL}."
    )


def test_the_same_text_has_the_same_name_wherever_it_stands() -> None:
    redacted = REDACTOR.redact(
        conversation(f"{MAIL} and other@example.com", f"You said {MAIL}", f"yes, {MAIL}")
    )
    assert contents(redacted) == [
        "[EMAIL_1] and [EMAIL_2]",
        "You said [EMAIL_1]",
        "yes, [EMAIL_1]",
    ]


def test_once_known_a_text_is_private_even_where_it_could_be_anything() -> None:
    redacted = REDACTOR.redact(conversation("call me: 4155552671", "4155552671?", "41555526710"))
    assert contents(redacted) == ["call me: [PHONE_1]", "[PHONE_1]?", "41555526710"]


def test_a_request_without_anything_private_leaves_as_it_is() -> None:
    request = conversation(*HARMLESS, tools=(Tool(name="look", parameters={"type": "object"}),))
    redacted = REDACTOR.redact(request)
    assert redacted.request == request
    assert redacted.n_redactions == 0


PLACES: dict[str, GenerationRequest] = {
    "message": conversation(MAIL),
    "system": GenerationRequest(messages=(said("system", MAIL), said("user", "hi"))),
    "name": GenerationRequest(messages=(said("user", "hi", name=MAIL),)),
    "tool result": GenerationRequest(
        messages=(said("user", "hi"), said("tool", f'{{"to": "{MAIL}"}}', tool_call_id="c1"))
    ),
    "escaped tool result": GenerationRequest(
        messages=(said("tool", r'{"to":"\njohn\u0040example.com"}', tool_call_id="c1"),)
    ),
    "tool call": GenerationRequest(
        messages=(
            said(
                "assistant",
                "",
                tool_calls=(ToolCall(id="c1", name="send", arguments=f'{{"to":["{MAIL}"]}}'),),
            ),
        )
    ),
    "key of a tool call": GenerationRequest(
        messages=(
            said(
                "assistant",
                "",
                tool_calls=(ToolCall(id="c1", name="send", arguments=f'{{"{MAIL}": 1}}'),),
            ),
        )
    ),
    "broken tool call": GenerationRequest(
        messages=(
            said(
                "assistant",
                "",
                tool_calls=(ToolCall(id="c1", name="send", arguments=f'{{"to": "{MAIL}'),),
            ),
        )
    ),
    "reasoning": GenerationRequest(
        messages=(said("assistant", "yes", reasoning=f"ask {MAIL}"), said("user", "go"))
    ),
    "tool call with a name twice": GenerationRequest(
        messages=(
            said(
                "assistant",
                "",
                tool_calls=(
                    ToolCall(id="c1", name="send", arguments=f'{{"to":"{MAIL}","to":"me"}}'),
                ),
            ),
        )
    ),
    "tool description": conversation("hi", tools=(Tool(name="t", description=f"as {MAIL}"),)),
    "tool schema": conversation(
        "hi", tools=(Tool(name="t", parameters={"properties": {"to": {"enum": [MAIL, "x"]}}}),)
    ),
    "answer schema": conversation("hi", response_format=JsonSchema(schema={"description": MAIL})),
    "stop": conversation("hi", stop=(MAIL,)),
    "template": conversation("hi", template_kwargs={"who": [{"mail": MAIL}]}),
    "prompt": GenerationRequest(prompt=f"Dear {MAIL}, "),
    "beginning of the answer": GenerationRequest(prompt="To: ", begun=f"{MAIL}, "),
}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_private_leaves_in_any_part_of_a_request(place: str) -> None:
    redacted = REDACTOR.redact(PLACES[place])
    encoded = msgspec.json.encode(redacted.request).decode()
    assert "john" not in encoded
    assert "[EMAIL_1]" in encoded
    assert redacted.counts == {"email": 1}


def test_every_field_of_a_request_is_known_to_be_redacted_or_to_hold_no_text() -> None:
    """Who adds a field decides here whether it can hold a text, and then extends texts.py."""
    assert set(GenerationRequest.__struct_fields__) == {
        *(
            "messages",
            "prompt",
            "begun",
            "stop",
            "response_format",
            "template_kwargs",
            "tools",
            "tool_choice",
        ),
        *("sampling", "max_tokens", "n", "logprobs", "ignore_eos", "continue_final_message"),
        *(
            "split_reasoning",
            "thinking_budget",
            "parallel_tool_calls",
            "reuse_prefix",
            "add_generation_prompt",
        ),
        *("timings_per_token", "post_sampling_probs", "priority", "keep_alive_s"),
    }
    assert set(Message.__struct_fields__) == {
        *("role", "content", "name", "tool_calls", "tool_call_id", "reasoning"),
        "images",  # nobody looks into them: the question to the user says so
    }
    assert set(ToolCall.__struct_fields__) == {"id", "name", "arguments"}
    assert set(Tool.__struct_fields__) == {"name", "description", "parameters", "strict"}


def test_numbers_of_a_tool_call_are_redacted_and_the_call_stays_json() -> None:
    call = ToolCall(id="c", name="pay", arguments='{"card": 4111111111111111, "eur": 5.50}')
    request = GenerationRequest(messages=(said("assistant", "", tool_calls=(call,)),))
    redacted = REDACTOR.redact(request)
    (changed,) = redacted.request.messages[0].tool_calls
    assert msgspec.json.decode(changed.arguments) == {"card": "[CARD_1]", "eur": 5.5}


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"user": "bob", "password": "hunter2"}', {"user": "bob", "password": "[SECRET_1]"}),
        ('{"login": {"pin": 4711}}', {"login": {"pin": "[SECRET_1]"}}),
        ('{"apiKey": ["b3f1c7a9d2e84506"]}', {"apiKey": ["[SECRET_1]"]}),
        ('{"ssn": "123456789"}', {"ssn": "[NATIONAL_ID_1]"}),
        ('{"phone": 2015550123}', {"phone": "[PHONE_1]"}),
        ('{"password": "${DB_PASSWORD}"}', {"password": "${DB_PASSWORD}"}),
        ('{"max_tokens": 4096}', {"max_tokens": 4096}),
    ],
)
def test_the_name_of_a_value_of_a_tool_call_can_make_it_private(
    arguments: str, sent: dict[str, object]
) -> None:
    """The walk over JSON used to take each value from its name."""
    call = ToolCall(id="c", name="log_in", arguments=arguments)
    request = GenerationRequest(messages=(said("assistant", "", tool_calls=(call,)),))
    (changed,) = REDACTOR.redact(request).request.messages[0].tool_calls
    assert msgspec.json.decode(changed.arguments) == sent


def test_an_example_in_the_schema_of_a_tool_is_private_if_its_property_is() -> None:
    schema = {"properties": {"password": {"type": "string", "default": "hunter2"}}}
    request = conversation("hi", tools=(Tool(name="t", parameters=schema),))
    (tool,) = REDACTOR.redact(request).request.tools
    assert tool.parameters["properties"]["password"]["default"] == "[SECRET_1]"


def test_a_tool_call_without_anything_private_keeps_its_spelling() -> None:
    call = ToolCall(id="c", name="pay", arguments='{ "eur" : 5.50 }')
    request = GenerationRequest(messages=(said("assistant", "", tool_calls=(call,)),))
    assert REDACTOR.redact(request).request == request


def test_words_of_a_schema_are_not_changed() -> None:
    schema = {"type": "string", "format": "email", "properties": {"token": {"type": "string"}}}
    request = conversation(MAIL, tools=(Tool(name="t", parameters=schema),))
    assert REDACTOR.redact(request).request.tools == request.tools


def test_arguments_that_the_model_writes_stay_json_when_restored() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"
    redacted = REDACTOR.redact(conversation(f"{key} is mine"))
    arguments = restored(redacted.argument_restorer(), '{"key": "[SECRET_1]"}')
    assert msgspec.json.decode(arguments) == {"key": key}


@pytest.mark.parametrize("response_format", [JsonObject(), JsonSchema(schema={})])
def test_an_answer_in_json_stays_json_when_restored(response_format: ResponseFormat) -> None:
    redacted = REDACTOR.redact(
        conversation('password: "pa\\ss w"', response_format=response_format)
    )
    answer = restored(redacted.restorer(), '{"it": "[SECRET_1]"}')
    assert msgspec.json.decode(answer) == {"it": "pa\\ss w"}


def test_a_known_text_is_found_beside_another_that_hid_it() -> None:
    text = "phone: 2015550123, 001a.2b3c.4d5e on port 3, 2015550123001a.2b3c.4d5e on both"
    (sent,) = contents(REDACTOR.redact(conversation(text)))
    assert sent == ("phone: [PHONE_1], [MAC_ADDRESS_1] on port 3, [PHONE_1][MAC_ADDRESS_1] on both")


# Whatever is taken out can be put back.

NOISE = st.sampled_from(
    [
        *(unmarked(text)[0] for _, text in PRIVATE),
        *HARMLESS,
        *("[EMAIL_1]", "email_1", "[PHONE 2]", "SECRET_1", "(", "(mailto:", "[", "]", "\\", "\n"),
        *("%5B", "{", '"', " ", "", "é", "\u200b", "🙂", "1", "@", "john@exa"),
    ]
)


@given(st.lists(st.lists(NOISE, max_size=5).map("".join), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_the_restored_request_is_the_request(texts: list[str]) -> None:
    request = GenerationRequest(messages=tuple(said("user", text) for text in texts))
    redacted = REDACTOR.redact(request)
    assert [restored(redacted.restorer(), text) for text in contents(redacted)] == texts


@given(st.lists(NOISE, max_size=6).map(" ".join))
@settings(max_examples=100, deadline=None)
def test_redacted_text_holds_nothing_more_to_redact(text: str) -> None:
    once = REDACTOR.redact(conversation(text))
    assert REDACTOR.redact(once.request).n_redactions == 0


@pytest.mark.parametrize(
    "text",
    [
        "Use G-482913 to verify your Google account min API-nyckel är b3f1c7a9d2e84506 ETag: "
        '"33a64df551425fcc55e4d42a148795d9f25f89d4"',
        "Het wachtwoord is tulp-veld-3 " * 5 + "zip code: 94105",
        "4111 1111 1111 1111 12/27 de pincode van mijn pas is 4711 비밀번호: kimchi77 "
        "sin 0.5235987755982989 0.0 -> 0.499999 <key>Password</key>\n<string>plist-77</string> "
        "MT84MALT011000012345MTLCAST001S",
    ],
)
def test_what_looks_private_only_beside_placeholders_is_taken_out_at_once(text: str) -> None:
    """They are shorter than what they stand for, so that a word reaches further."""
    once = REDACTOR.redact(conversation(text, text))
    assert REDACTOR.redact(once.request).n_redactions == 0
    assert [restored(once.restorer(), sent) for sent in contents(once)] == [text, text]


def test_a_link_after_a_private_text_is_restored_as_it_was() -> None:
    text = f"{MAIL}(mailto:{MAIL})"
    redacted = REDACTOR.redact(conversation(text))
    assert restored(redacted.restorer(), contents(redacted)[0]) == text


def test_the_users_own_patterns_and_exceptions_hold() -> None:
    redactor = Redactor(
        PrivacySettings(
            patterns=(UserPattern(name="Case_No", pattern=r"(?i)case (\d+)"),), allow=(MAIL,)
        )
    )
    redacted = redactor.redact(conversation(f"Case 4711 of {MAIL}"))
    assert contents(redacted) == [f"Case [CASE_NO_1] of {MAIL}"]
    assert restored(redacted.restorer(), "[case no 1]") == "4711"


def test_a_conversation_keeps_its_names_as_it_grows() -> None:
    first = REDACTOR.redact(conversation(f"I am {MAIL}"))
    later = REDACTOR.redact(conversation(f"I am {MAIL}", "Hello", "and new@example.com"))
    assert contents(later)[0] == contents(first)[0]


def test_a_request_for_several_answers_is_redacted_like_any_other() -> None:
    request = replace(conversation(MAIL), n=3, max_tokens=7)
    redacted = REDACTOR.redact(request).request
    assert (redacted.n, redacted.max_tokens) == (3, 7)


def test_a_text_in_any_other_field_is_redacted_too() -> None:
    """A field that is added to the request need not be added to the redactor."""
    request = conversation("hi", sampling=Sampling(dry_sequence_breakers=("*", MAIL)))
    redacted = REDACTOR.redact(request)
    assert redacted.request.sampling.dry_sequence_breakers == ("*", "[EMAIL_1]")
    assert redacted.request.sampling.seed is None
