"""Gemini's API: a real server and the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types
from hypothesis import given

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.gemini.answer import GeminiArray, GeminiStream, GeminiWhole, Told
from spillover.edge_server.wire.gemini.bodies import GenerateBody, json_schema
from spillover.edge_server.wire.gemini.contents import Content, messages_of
from spillover.edge_server.wire.gemini.spelling import as_declared
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.events import Delta, ReasoningDelta, ToolCallDelta
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.story import QUESTION
from tests.edge_server.wire.encoded import SAID, encoded, finished
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens
from tests.sse_reader import events_of

FEW = types.GenerateContentConfig(temperature=0, max_output_tokens=40)
PATH = "/v1beta/models/storyteller"
ASK: dict[str, Any] = {
    "contents": [{"role": "user", "parts": [{"text": QUESTION}]}],
    "generationConfig": {"temperature": 0, "maxOutputTokens": 8},
}
PLACE: Any = {
    "type": "OBJECT",
    "properties": {
        "city": {"type": "STRING", "maxLength": "8"},
        "days": {"type": "INTEGER", "minimum": 1, "maximum": 9, "nullable": True},
    },
    "required": ["city", "days"],
    "propertyOrdering": ["city", "days"],
}
WEATHER = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="weather",
            description="The weather of a city.",
            parameters_json_schema=json_schema(PLACE, "x") | {"additionalProperties": False},
        )
    ]
)


def official(server: Server) -> genai.Client:
    options = types.HttpOptions(base_url=server.url, timeout=60_000)
    return genai.Client(api_key="unused", http_options=options)


@pytest.fixture
def gemini(server: Server) -> Iterator[genai.Client]:
    client = official(server)
    yield client
    client.close()


def test_a_whole_answer_and_a_stream(gemini: genai.Client) -> None:
    whole = gemini.models.generate_content(model="storyteller", contents=QUESTION, config=FEW)
    assert whole.text
    assert whole.model_version == "storyteller"
    usage = whole.usage_metadata
    assert usage is not None
    counted = gemini.models.count_tokens(model="storyteller", contents=QUESTION)
    assert usage.prompt_token_count == counted.total_tokens
    assert 0 < (usage.candidates_token_count or 0) <= 40
    *parts, last = gemini.models.generate_content_stream(
        model="storyteller", contents=QUESTION, config=FEW
    )
    assert "".join(part.text or "" for part in parts)
    assert last.candidates is not None
    assert last.candidates[0].finish_reason in ("STOP", "MAX_TOKENS")
    assert last.usage_metadata is not None


def test_a_stream_without_sse_is_an_array(http: httpx.Client) -> None:
    answer = http.post(f"{PATH}:streamGenerateContent", json=ASK)
    assert answer.headers["Content-Type"] == "application/json"
    *_, last = answer.json()
    assert last["candidates"][0]["finishReason"] in ("STOP", "MAX_TOKENS")


def test_a_call_and_its_result(gemini: genai.Client) -> None:
    mode = types.FunctionCallingConfigMode.ANY
    config = types.GenerateContentConfig(
        temperature=0,
        max_output_tokens=90,
        tools=[WEATHER],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(
                mode=mode, allowed_function_names=["weather"]
            )
        ),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    first = gemini.models.generate_content(model="x", contents=QUESTION, config=config)
    (call,) = first.function_calls or []
    assert call.name == "weather"
    assert set(call.args or ()) == {"city", "days"}, first
    chunks = list(
        gemini.models.generate_content_stream(model="x", contents=QUESTION, config=config)
    )
    (again,) = [call for chunk in chunks for call in chunk.function_calls or ()]
    assert again.name == "weather"
    assert first.candidates is not None
    assert first.candidates[0].content is not None
    result = types.Part.from_function_response(name="weather", response={"sky": "blue"})
    asked = types.Content(role="user", parts=[types.Part(text=QUESTION)])
    history: Any = [asked, first.candidates[0].content, types.Content(role="user", parts=[result])]
    assert gemini.models.generate_content(model="x", contents=history, config=FEW).candidates


@pytest.mark.parametrize("which", ["responseSchema", "responseJsonSchema"])
def test_a_schema_shapes_the_answer(http: httpx.Client, which: str) -> None:
    schema = PLACE if which == "responseSchema" else json_schema(PLACE, "x")
    schema = schema | {"additionalProperties": False}
    config = {"maxOutputTokens": 90, "responseMimeType": "application/json", which: schema}
    answer = http.post(f"{PATH}:generateContent", json=ASK | {"generationConfig": config}).json()
    (part,) = answer["candidates"][0]["content"]["parts"]
    assert json.loads(part["text"]).keys() == {"city", "days"}


def test_an_enum_comes_without_quotes(http: httpx.Client) -> None:
    """It was written as JSON."""
    schema = {"type": "STRING", "enum": ["a fox", "a bird"]}
    config = {"maxOutputTokens": 20, "responseMimeType": "text/x.enum", "responseSchema": schema}
    answer = http.post(f"{PATH}:generateContent", json=ASK | {"generationConfig": config}).json()
    assert answer["candidates"][0]["content"]["parts"][0]["text"] in schema["enum"]


def test_several_candidates_and_logprobs(http: httpx.Client) -> None:
    config = ASK["generationConfig"] | {
        "candidateCount": 2, "responseLogprobs": True, "logprobs": 2,
    }  # fmt: skip
    answer = http.post(f"{PATH}:generateContent", json=ASK | {"generationConfig": config}).json()
    assert [candidate["index"] for candidate in answer["candidates"]] == [0, 1]
    scores = answer["candidates"][0]["logprobsResult"]
    assert len(scores["chosenCandidates"]) == len(scores["topCandidates"]) > 0
    assert len(scores["topCandidates"][0]["candidates"]) == 2


def test_the_model_is_listed(gemini: genai.Client) -> None:
    model, *_ = gemini.models.list(config={"query_base": True})
    assert model.name == "models/storyteller"
    assert (gemini.models.get(model="storyteller").input_token_limit or 0) > 0


def test_errors_have_the_clients_class(gemini: genai.Client) -> None:
    with pytest.raises(errors.ClientError, match=r"INVALID_ARGUMENT.*context"):
        gemini.models.generate_content(model="x", contents="a b " * 2000)
    with pytest.raises(errors.ClientError, match="gemini-9") as caught:
        gemini.models.get(model="gemini-9")
    assert caught.value.code == 404


@pytest.mark.parametrize("where", ["header", "query"])
def test_a_key_may_come_as_googles_clients_send_it(tmp_path: Path, where: str) -> None:
    key = "a key of the tests"
    server = Server(tmp_path, "--api-key", key)
    try:
        url, query = f"{server.url}{PATH}:generateContent", {"key": key}
        assert httpx.post(url, json=ASK).status_code == 401
        given: Any = (
            {"headers": {"x-goog-api-key": key}} if where == "header" else {"params": query}
        )
        assert httpx.post(url, json=ASK, timeout=60, **given).status_code == 200
        elsewhere = f"{server.url}/v1/chat/completions"
        assert httpx.post(elsewhere, json={}, params=query).status_code == 401
    finally:
        server.stop()
    assert key not in server.said


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "bard", "parts": [{"text": "x"}]}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"inlineData": {}}]}]}, "contents[0].parts[0]"),
        ({"generationConfig": {"temperature": -1}}, "generationConfig.temperature"),
        ({"generationConfig": {"candidateCount": 99}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"stopSequences": [""]}}, "generationConfig.stopSequences[0]"),
        ({"generationConfig": {"responseModalities": ["AUDIO"]}},
         "generationConfig.responseModalities"),
        ({"generationConfig": {"responseMimeType": "text/html"}},
         "generationConfig.responseMimeType"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "responseSchema: text/x.enum"),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": -7}}},
         "generationConfig.thinkingConfig.thinkingBudget"),
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}],
          "toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}},
         "toolConfig.functionCallingConfig.mode"),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}],
          "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["g"]}}},
         "toolConfig.functionCallingConfig.allowedFunctionNames"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(http: httpx.Client, fields: dict[str, Any], named: str) -> None:
    answer = http.post(f"{PATH}:generateContent", json=ASK | fields)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


def test_what_means_nothing_here_refuses_nothing(http: httpx.Client) -> None:
    body = {
        "contents": ASK["contents"],
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {"maxOutputTokens": 2.0, "topK": 40.0, "speechConfig": {},
                              "thinkingConfig": {"includeThoughts": True, "thinkingBudget": -1}},
        "safetySettings": [{"category": "x", "threshold": "OFF"}],
        "tools": [{"googleSearch": {}}, {"codeExecution": {}}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "labels": {"a": "b"},
    }  # fmt: skip
    answer = http.post(f"{PATH}:generateContent", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usageMetadata"]["candidatesTokenCount"] <= 2


def conversation(*contents: dict[str, Any]) -> list[dict[str, Any]]:
    return messages_of(None, decode(json.dumps(contents).encode(), tuple[Content, ...]))


def test_results_find_their_calls() -> None:
    turns = conversation(
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [
            {"text": "plan", "thought": True},
            {"text": "Let me see."},
            {"functionCall": {"name": "f", "args": {"x": 1}}},
            {"executableCode": {"code": "1"}},
            {"thoughtSignature": "AAAA"},
            {"functionCall": {"name": "g", "id": "own", "args": None}},
            {"functionCall": {"name": "h", "args": ["x"]}},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": "g", "response": "G"}},
            {"functionResponse": {"name": "f", "response": {"r": 1}}},
            {"text": "go on"},
        ]},
    )  # fmt: skip
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "user"]
    assert turns[0]["content"] == "a\nb"
    answer = turns[1]
    assert (answer["reasoning"], answer["content"]) == ("plan", "Let me see.")
    first, second, _ = answer["tool_calls"]
    assert [call["arguments"] for call in answer["tool_calls"]] == ['{"x":1}', "{}", '["x"]']
    assert (turns[2]["tool_call_id"], turns[2]["content"]) == ("own", "G")
    assert second["id"] == "own"
    assert (turns[3]["tool_call_id"], turns[3]["content"]) == (first["id"], '{"r":1}')
    assert turns[4]["content"] == "go on"


def test_googles_schemas_become_json_schemas() -> None:
    assert json_schema(PLACE, "x") == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
    }
    nullable = {"anyOf": [{"type": "STRING", "enum": ["a"], "nullable": True}], "nullable": True}
    assert json_schema(nullable, "x") == {
        "anyOf": [{"type": ["string", "null"], "enum": ["a", None]}, {"type": "null"}]
    }
    named_like_a_keyword = {"type": "OBJECT", "properties": {"type": {"type": "STRING"}}}
    assert json_schema(named_like_a_keyword, "x")["properties"] == {"type": {"type": "string"}}
    deep: Any = {"type": "STRING"}
    for _ in range(40):
        deep = {"type": "ARRAY", "items": deep}
    with pytest.raises(WireError, match="levels deep"):
        json_schema(deep, "x")


def test_names_may_have_underscores_but_those_in_schemas_are_the_clients() -> None:
    schema = {"properties": {"system_instruction": {"type": "string"}}}
    tool = {"name": "f", "parameters_json_schema": schema}
    body = {"generation_config": {"top_k": 3}, "tools": [{"function_declarations": [tool]}]}
    read = decode(as_declared(json.dumps(body).encode(), GenerateBody), GenerateBody)
    assert read.config.top_k == 3
    assert read.tools is not None
    assert read.tools[0].function_declarations[0].parameters_json_schema == schema
    assert as_declared(b'{"a_b": ', GenerateBody) == b'{"a_b": '


def test_one_value_may_stand_for_a_list() -> None:
    """As Google's own examples have it. It was a 400."""
    schema = {"properties": {"parts": {"type": "string"}, "tools": None}}
    asked = {"role": "user", "parts": {"text": "hi"}}
    body = {
        "contents": asked,
        "tools": {"functionDeclarations": {"name": "f", "parametersJsonSchema": schema}},
        "generationConfig": {"stopSequences": "END", "guided_choice": None},
    }
    read = decode(as_declared(json.dumps(body).encode(), GenerateBody), GenerateBody)
    assert [part.text for content in read.contents for part in content.parts] == ["hi"]
    assert read.tools is not None
    assert read.tools[0].function_declarations[0].parameters_json_schema == schema
    assert (read.config.stop, read.config.guided_choice) == (("END",), None)
    several = {"contents": [asked, {"role": "model", "parts": None}], "tools": None}
    read = decode(as_declared(json.dumps(several).encode(), GenerateBody), GenerateBody)
    assert [len(content.parts) for content in read.contents] == [1, 0]
    large = b'{"contents": {}, "x": [%b0]}' % (b"0," * (1 << 19))
    assert as_declared(large, GenerateBody) == large


@pytest.mark.parametrize("text", ["²", "1" * 5_000, "٣"])
def test_a_text_that_is_no_count_stays_a_text(text: str) -> None:
    """Some used to be a 500: they are digits, and yet no integers."""
    assert json_schema({"minItems": text}, "x") == {"minItems": text}


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"\xef\xbb\xbf", b""), (b"", rb'"\ud83d"'), (b"", b'"%b"' % (b"x" * (1 << 21)))],
)
def test_odd_and_large_bodies_may_have_names_with_underscores(before: bytes, after: bytes) -> None:
    """They were ignored in silence beside a byte order mark, half an emoji, or a large image."""
    body = before + b'{"generation_config": {"top_k": 3}, "x": [%b]}' % after
    assert decode(as_declared(body, GenerateBody), GenerateBody).config.top_k == 3


def test_a_body_of_too_many_values_is_told_which_names_to_use() -> None:
    many = b"0," * (1 << 19)
    own = b'{"contents": [], "x": {"my_field": [%b0]}}' % many
    assert as_declared(own, GenerateBody) == own
    with pytest.raises(WireError, match="camelCase"):
        as_declared(b'{"generation_config": {}, "x": [%b0]}' % many, GenerateBody)


TOLD = Told(id="1", model="here", n=1, thoughts=True, logprobs=False)


def streamed(events: list[Any], told: Told = TOLD) -> list[Any]:
    """The chunks, which are the same as events and as an array."""
    sse, array = GeminiStream(told), GeminiArray(told)
    body = encoded(sse, events)
    chunks = [json.loads(event.data) for event in events_of(body)]
    body = encoded(array, events)
    assert json.loads(body) == chunks
    return chunks


def parts_of(chunks: list[Any]) -> list[Any]:
    return [
        part
        for chunk in chunks
        for candidate in chunk.get("candidates", ())
        for part in candidate["content"]["parts"]
    ]


def test_a_call_is_sent_when_it_is_complete() -> None:
    events: list[Any] = [
        ReasoningDelta(text="hm"),
        Delta(text="Let me see."),
        ToolCallDelta(index=0, id="a", name="f"),
        ToolCallDelta(index=0, arguments='{"x":'),
        ToolCallDelta(index=0, arguments="1}"),
        ToolCallDelta(index=1, id="b", name="g", arguments='{"y'),
        finished("tool_calls"),
    ]
    chunks = streamed(events)
    thought, said, first, second = parts_of(chunks)
    assert (thought["thought"], said["text"]) == (True, "Let me see.")
    assert first["functionCall"] == {"id": "a", "name": "f", "args": {"x": 1}}
    assert second["functionCall"]["args"] == {}
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert chunks[-1]["usageMetadata"]["thoughtsTokenCount"] == 2
    whole = GeminiWhole(TOLD)
    for event in events:
        whole.feed(event)
    assert parts_of([json.loads(whole.end())]) == [thought, said, first, second]


@given(SAID)
def test_every_text_arrives_as_it_was(parts: list[tuple[Any, str]]) -> None:
    found = parts_of(streamed([kind(text=text) for kind, text in parts] + [finished()]))
    for kind in (Delta, ReasoningDelta):
        sent = "".join(text for other, text in parts if other is kind)
        thought = kind is ReasoningDelta
        assert "".join(p["text"] for p in found if p.get("thought", False) == thought) == sent


def test_reasoning_that_nobody_asked_for_is_not_shown() -> None:
    told = Told(id="1", model="here", n=1, thoughts=False, logprobs=False)
    assert parts_of(streamed([ReasoningDelta(text="hm"), finished()], told)) == []


@pytest.mark.parametrize(
    "event", [finished("interrupted"), finished("cancelled"), Failed(code="c", message="m")]
)
def test_an_answer_that_breaks_off_ends_with_an_error(event: Any) -> None:
    assert "error" in streamed([Delta(text="x"), event, Delta(text="y")])[-1]


def test_a_silent_stream_shows_life_only_where_it_is_wanted() -> None:
    encoder = GeminiStream(TOLD)
    assert encoder.silence() == b""
    encoder.keep_alive = "event"
    assert events_of(encoder.silence())


def test_an_answer_that_changes_its_writer_is_one_answer(fake: Fake, tmp_path: Path) -> None:
    rest = "A cloud tells the story. The end."
    fake.script(Act(text=rest, usage=Tokens(prompt=100, completion=20)))
    rule = '[[policy.rules]]\nname = "clouds"\nwords = ["cumulus"]\n'
    server = routed_server(tmp_path, fake, tables=rule)
    client = official(server)
    try:
        chunks = list(client.models.generate_content_stream(model="x", contents="Of a cumulus."))
        assert "".join(chunk.text or "" for chunk in chunks) == rest
        assert chunks[-1].model_version == "cloud-model"
    finally:
        client.close()
        server.stop()
