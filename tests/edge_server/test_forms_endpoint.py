"""Answers of a given form over HTTP, in the words of OpenAI, llama.cpp and vLLM."""

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
        "max_tokens": 60,
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
    ("form", "pattern"),
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
    http: httpx.Client, path: str, text: Any, form: dict[str, Any], pattern: str
) -> None:
    said = {"messages": STORY} if "chat" in path else {"prompt": "Once"}
    answer = http.post(path, json={**said, **form, "max_tokens": 24, "seed": 5})
    assert answer.status_code == 200, answer.text
    assert re.fullmatch(pattern, text(answer.json()), re.DOTALL)


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
def test_a_form_that_cannot_be_followed_is_a_400_that_names_it(
    http: httpx.Client, fields: dict[str, Any], param: str, stream: bool
) -> None:
    for path, said in (
        ("/v1/chat/completions", {"messages": STORY}),
        ("/completion", {"prompt": "a"}),
    ):
        answer = http.post(path, json={**said, **fields, "stream": stream})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
