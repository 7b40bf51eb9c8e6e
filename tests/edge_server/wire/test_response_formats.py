"""Response formats over HTTP, with the fields of OpenAI, llama.cpp and vLLM."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
import openai
import pydantic
import pytest

STORY: Any = [{"role": "user", "content": "Describe a fox named Ruby as JSON."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "fox", "schema": SCHEMA, "strict": True},
}


class Fox(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    age: int = pydantic.Field(ge=0, le=99)


def test_the_openai_client_gets_json_that_follows_its_schema(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {
        "model": "storyteller", "messages": STORY, "response_format": FORMAT, "temperature": 0,
        "max_tokens": 60, "extra_body": {"cache_prompt": False},
    }  # fmt: skip
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content or ""), SCHEMA)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_openai_client_parses_a_model_of_pydantic(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="storyteller", messages=STORY, response_format=Fox, max_tokens=60, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Fox)


def test_json_object_is_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="storyteller",
        messages=STORY,
        response_format={"type": "json_object"},
        max_tokens=200,
        seed=2,
    )
    choice = answer.choices[0]
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/chat/completions", lambda a: a["choices"][0]["message"]["content"]),
        ("/v1/completions", lambda a: a["choices"][0]["text"]),
        ("/completion", lambda a: a["content"]),
    ],
)
@pytest.mark.parametrize(
    ("response_format", "pattern"),
    [
        ({"grammar": 'root ::= [a-c]+ "." [0-9] [0-9]?'}, r"[a-c]+\.[0-9]{1,2}"),
        ({"grammar": "%llguidance {}\nstart: /[a-c]{2}/"}, "[a-c]{2}"),
        ({"json_schema": {"enum": ["a", "b"]}}, '"[ab]"'),
        ({"guided_json": '{"type": "boolean"}'}, "true|false"),
        ({"guided_regex": "[0-9]{2}-[xy]"}, "[0-9]{2}-[xy]"),
        ({"guided_choice": ['yes "', "no"]}, 'yes "|no'),
        ({"guided_grammar": 'root ::= "u" | "v"'}, "[uv]"),
        ({"structured_outputs": {"regex": "z{3}"}}, "z{3}"),
        ({"structured_outputs": {"grammar": "start: /w/"}}, "w"),
        ({"response_format": {"type": "json_object", "schema": {"const": 5}}}, "5"),
        ({"response_format": {"type": "text"}}, ".*"),
    ],
)
def test_every_route_knows_every_way_to_ask(
    http: httpx.Client, path: str, text: Any, response_format: dict[str, Any], pattern: str
) -> None:
    said = {"messages": STORY} if "chat" in path else {"prompt": "Once"}
    answer = http.post(path, json={**said, **response_format, "max_tokens": 24, "seed": 5})
    assert answer.status_code == 200, answer.text
    assert re.fullmatch(pattern, text(answer.json()), re.DOTALL)


def test_one_of_thousands_of_texts_is_chosen(http: httpx.Client) -> None:
    texts = [f"choice number {i}" for i in range(4_000)]
    answer = http.post("/completion", json={"prompt": "a", "guided_choice": texts, "n_predict": 24})
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"] in texts


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"grammar": 'root ::= "ab"'}, {"grammar": 'root ::= "ab"'}),
        ({"json_schema": {"const": 5}}, {"grammar": "", "json_schema": {"const": 5}}),
        ({"guided_regex": "[0-9]"}, {"grammar": "", "guided_regex": "[0-9]"}),
        ({}, {"grammar": ""}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_settings_of_an_answer_show_its_response_format(
    http: httpx.Client, fields: dict[str, Any], shown: dict[str, Any], stream: bool
) -> None:
    body = {"prompt": "Once", "n_predict": 4, "seed": 1, "stream": stream, **fields}
    answer = http.post("/completion", json=body)
    last = answer.text.strip().rpartition("data: ")[2] if stream else answer.text
    settings = json.loads(last)["generation_settings"]
    names = ("grammar", "json_schema", "guided_regex")
    assert {name: settings[name] for name in names if name in settings} == shown


def test_the_openai_client_gets_the_rest_of_a_message_that_has_begun(
    client: openai.OpenAI,
) -> None:
    begun = '{"name": "Ru'
    messages: Any = [*STORY, {"role": "assistant", "content": begun}]
    answer = client.chat.completions.create(
        model="storyteller",
        messages=messages,
        response_format=FORMAT,
        max_tokens=60,
        extra_body={"continue_final_message": True},
    )
    jsonschema.validate(json.loads(begun + (answer.choices[0].message.content or "")), SCHEMA)


def test_several_answers_with_a_seed_and_logprobs_follow_the_format(
    client: openai.OpenAI,
) -> None:
    ask: dict[str, Any] = {
        "model": "storyteller", "messages": STORY, "response_format": FORMAT, "max_tokens": 60,
        "n": 3, "seed": 7, "logprobs": True, "top_logprobs": 2,
        "extra_body": {"cache_prompt": False},
    }  # fmt: skip
    for choice in client.chat.completions.create(**ask).choices:
        assert choice.finish_reason == "stop"
        text = choice.message.content or ""
        jsonschema.validate(json.loads(text), SCHEMA)
        assert choice.logprobs
        tokens = choice.logprobs.content or []
        assert b"".join(bytes(t.bytes or []) for t in tokens).decode() == text


def test_a_stop_string_in_a_json_string_and_max_tokens_say_why_it_ended(
    client: openai.OpenAI,
) -> None:
    schema = {**SCHEMA, "properties": {"name": {"const": "Ruby"}, "age": {"const": 7}}}
    ask: dict[str, Any] = {
        "model": "storyteller", "messages": STORY, "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }  # fmt: skip
    stopped = client.chat.completions.create(**ask, max_tokens=60, stop=["ub"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert (stopped.message.content or "").replace(" ", "") == '{"name":"R'
    cut = client.chat.completions.create(**ask, max_tokens=2).choices[0]
    assert cut.finish_reason == "length"
    assert '{"name":"Ruby","age":7'.startswith((cut.message.content or "?").replace(" ", ""))


def test_the_keyword_that_no_grammar_can_say_is_named(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    response_format: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="#/properties/a/not") as caught:
        client.chat.completions.create(model="m", messages=STORY, response_format=response_format)
    assert caught.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object", "schema": {"not": {}}}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"grammar": 'root ::= "'}, "grammar"),
        ({"json_schema": {"not": {}}}, "json_schema"),
        ({"json_schema": 3}, "json_schema"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "json_schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_format_that_cannot_be_followed_is_a_400_that_names_it(
    http: httpx.Client, fields: dict[str, Any], param: str, stream: bool
) -> None:
    for path, said in (
        ("/v1/chat/completions", {"messages": STORY}),
        ("/completion", {"prompt": "a"}),
    ):
        answer = http.post(path, json={**said, **fields, "stream": stream})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def members(n: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(n)}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {str(i): 1 for i in range(1_025)}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(300_000)}}, "logit_bias"),
        ({"chat_template_kwargs": {f"k{i}": i for i in range(50_000)}}, "chat_template_kwargs"),
        ({"json_schema": members(30_000)}, "json_schema"),
        ({"json_schema": members(60_000)}, "json_schema"),
        ({"guided_json": members(60_000)}, "guided_json"),
        ({"response_format": {"type": "json_object", "schema": members(60_000)}},
         "response_format"),
        ({"tools": [{"function": {"name": "f", "parameters": members(30_000)}}]},
         "tools[0].function.parameters"),
        ({"tools": [{"function": {"name": f"f{i}", "parameters": members(2_000)}}
                    for i in range(30)]}, "tools"),
    ],
    ids=["biases", "very many biases", "variables", "schema", "very large schema", "guided_json",
         "response_format", "tool", "tools"],
)  # fmt: skip
def test_what_is_too_large_to_be_read_is_a_400_that_names_it(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": STORY, "max_tokens": 1, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_bounds_beyond_64_bits_are_kept(http: httpx.Client) -> None:
    """They were a 400."""
    number = {"type": "integer", "minimum": -(10**400), "maximum": 2**70}
    body: dict[str, Any] = {"prompt": "a", "n_predict": 30, "seed": 1, "temperature": 5}
    answer = http.post("/completion", json=body | {"json_schema": number})
    assert answer.status_code == 200, answer.text
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": number}}}
    chat = {
        "messages": STORY,
        "max_tokens": 3,
        "tools": [{"type": "function", "function": function}],
    }
    answer = http.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "schema", [{"const": 2**70}, {"type": "integer", "minimum": 2**70}, {"minimum": 10**400}]
)
def test_an_integer_beyond_64_bits_that_is_asked_for_is_a_400(
    http: httpx.Client, schema: dict[str, Any]
) -> None:
    answer = http.post("/completion", json={"prompt": "a", "json_schema": schema})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "json_schema"
