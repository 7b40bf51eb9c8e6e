"""Requests in Gemini's dialect."""

from __future__ import annotations

from typing import Any

import pytest

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import JsonObject, JsonSchema, Lark, NamedTool, Tool
from spillover.runtime.sampling import Sampling
from tests.cloud_fallback.dialects.conversations import (
    CITY,
    CLOCK,
    PARTIAL,
    WEATHER,
    WITH_TOOLS,
    ask,
    body_of,
    dialect_for,
    encoded,
)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
        (
            {"base_url": "https://x.y/v1beta/"},
            "/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ),
    ],
)
def test_ai_studio_names_the_model_in_its_path(options: Any, path: str) -> None:
    assert encoded("gemini", ask(), **options).path == path
    assert encoded("gemini", ask(), model="models/gemini-2.5-flash", **options).path == path


def test_vertex_names_the_project_too_but_in_express_mode() -> None:
    end = "publishers/google/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    sent = encoded("vertex", ask(), project="my-project", region="europe-west4")
    assert sent.path == f"/v1/projects/my-project/locations/europe-west4/{end}"
    sent = encoded("vertex", ask(), project="my-project")
    assert sent.path == f"/v1/projects/my-project/locations/global/{end}"
    assert encoded("vertex", ask()).path == f"/v1/{end}"


def test_keys_and_tokens_are_distinguished() -> None:
    bearer, api_key = "authorization", "x-goog-api-key"
    assert dialect_for("gemini").key_headers("AIzaX") == {api_key: "AIzaX"}
    assert dialect_for("gemini").key_headers("secret") == {api_key: "secret"}
    vertex = dialect_for("vertex", project="p")
    assert vertex.key_headers("ya29.a0") == {bearer: "Bearer ya29.a0"}
    assert vertex.key_headers("other-token") == {bearer: "Bearer other-token"}
    assert vertex.key_headers("AQ.Ab8") == {api_key: "AQ.Ab8"}
    assert dialect_for("vertex").key_headers("secret") == {api_key: "secret"}


def test_a_conversation_is_put_into_contents() -> None:
    body = body_of("gemini", ask(WITH_TOOLS))
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Is it warm in Rome?"}]},
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "weather", "args": {"city": "Rome"}}},
                {"functionCall": {"name": "clock", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"celsius": 31}}},
                {"functionResponse": {"name": "clock", "response": {"result": "noon"}}},
                {"text": "And in Oslo?"},
            ],
        },
    ]
    assert "generationConfig" not in body


def test_models_that_sign_their_calls_learn_that_another_model_made_these() -> None:
    for model in ("gemini-3-pro-preview", "gemini-3.8-flash"):
        calls = body_of("gemini", ask(WITH_TOOLS), model=model)["contents"][1]["parts"]
        signatures = [call.get("thoughtSignature") for call in calls]
        assert signatures == ["skip_thought_signature_validator", None]


def test_the_generation_is_configured_with_what_was_chosen() -> None:
    request = ask(
        max_tokens=9,
        stop=tuple("abcdef"),
        sampling=Sampling(temperature=3, top_p=0.5, top_k=9, seed=2**40, min_p=0.3),
        response_format=JsonSchema(schema=CITY),
    )
    assert body_of("gemini", request)["generationConfig"] == {
        "maxOutputTokens": 9,
        "stopSequences": list("abcde"),
        "temperature": 2.0,
        "topP": 0.5,
        "topK": 9,
        "responseMimeType": "application/json",
        "responseJsonSchema": CITY,
    }
    assert encoded("gemini", request).stop == tuple("abcde")
    assert body_of("gemini", ask(response_format=JsonObject()))["generationConfig"] == {
        "responseMimeType": "application/json"
    }


def test_what_cannot_be_expressed_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="cannot hold an answer to a"):
        encoded("gemini", ask(response_format=Lark(grammar="start: /a/")))
    with pytest.raises(InvalidRequest) as error:
        encoded("gemini", ask(tools=(CLOCK,), parallel_tool_calls=False))
    assert error.value.param == "parallel_tool_calls"


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (NamedTool(name="clock"), {"mode": "ANY", "allowedFunctionNames": ["clock"]}),
    ],
)
def test_a_tool_choice_is_a_mode(choice: Any, mode: Any) -> None:
    body = body_of("gemini", ask(tools=(WEATHER, CLOCK), tool_choice=choice))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "Tells the weather.",
                    "parametersJsonSchema": CITY,
                },
                {"name": "clock", "description": ""},
            ]
        }
    ]
    assert body.get("toolConfig") == (mode and {"functionCallingConfig": mode})


def test_strict_tools_are_called_by_their_schema() -> None:
    body = body_of("gemini", ask(tools=(Tool(name="t", strict=True),)))
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


@pytest.mark.parametrize(
    ("model", "continues"),
    [
        ("gemini-2.0-flash", True),
        ("gemini-2.5-pro", True),
        ("models/gemini-2.5-pro", True),
        ("gemini-3-pro-preview", True),
        ("gemini-3.1-pro", True),
        ("gemini-3.5-flash", True),
        ("gemini-pro-latest", True),
        ("gemini-3.5-flash-lite", False),
        ("gemini-3.6-flash", False),
        ("gemini-3.10-flash", False),
        ("gemini-4-pro", False),
        ("gemma-3-27b-it", False),
    ],
)
def test_only_models_known_to_continue_a_turn_are_asked_to(model: str, continues: bool) -> None:
    assert dialect_for("gemini").may_prefill(model) is continues
    assert dialect_for("vertex").may_prefill(model) is continues


def test_a_prefilled_turn_is_the_models_last_word() -> None:
    sent = encoded("gemini", ask(PARTIAL), prefill=True)
    assert (sent.prefilled, sent.trimmed) == ("Good day to", " \n")
    last = body_of("gemini", ask(PARTIAL), prefill=True)["contents"][-1]
    assert last == {"role": "model", "parts": [{"text": "Good day to"}]}
    with pytest.raises(InvalidRequest):
        encoded("gemini", ask(PARTIAL))
