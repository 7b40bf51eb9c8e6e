"""Requests in the dialects of Cohere, Bedrock and generate_stream, and what none can express."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    Tool,
)
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

every_dialect = pytest.mark.parametrize("name", tuple(COMPANIES))


@every_dialect
@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (GenerationRequest(prompt=(1, 2)), "prompt"),
        (ask(n=2), "n"),
        (ask(sampling=Sampling(logit_bias={7: -100})), "logit_bias"),
        (ask(ignore_eos=True), "ignore_eos"),
        (ask((Message(role="user", content="half \ud83e"),)), "messages"),
    ],
)
def test_what_no_provider_can_express_is_refused_by_name(
    name: str, request_: GenerationRequest, param: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        encoded(name, request_)
    assert error.value.param == param


@every_dialect
def test_a_request_is_written_the_same_each_time(name: str) -> None:
    request = ask(max_tokens=5, stop=("END",), sampling=Sampling(temperature=0.5))
    assert encoded(name, request) == encoded(name, request)
    assert json.loads(encoded(name, request).body)


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ValueError, match="'xai' is not known"):
        dialect_for("xai")


def test_cohere_gets_its_own_names_and_bounds() -> None:
    sampling = Sampling(temperature=2, top_p=1.0, top_k=900, frequency_penalty=-1, seed=4)
    body = body_of("cohere", ask(max_tokens=9, stop=tuple("abcdef"), sampling=sampling))
    assert body == {
        "model": "command-a-03-2025",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "max_tokens": 9,
        "stop_sequences": list("abcde"),
        "seed": 4,
        "temperature": 1.0,
        "p": 0.99,
        "k": 500,
        "frequency_penalty": 0.0,
    }
    assert encoded("cohere", ask()).path == "/v2/chat"


def test_cohere_is_given_only_the_tool_that_it_must_call() -> None:
    request = ask(tools=(WEATHER, CLOCK), tool_choice=NamedTool(name="clock"))
    body = body_of("cohere", request)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["clock"]
    assert body["tool_choice"] == "REQUIRED"
    assert body_of("cohere", ask(tools=(CLOCK,), tool_choice="none"))["tool_choice"] == "NONE"
    assert "tool_choice" not in body_of("cohere", ask(tools=(CLOCK,)))
    assert body_of("cohere", ask(tools=(Tool(name="t", strict=True),)))["strict_tools"] is True


def test_coheres_response_formats() -> None:
    body = body_of("cohere", ask(response_format=JsonSchema(schema=CITY)))
    assert body["response_format"] == {"type": "json_object", "json_schema": CITY}
    assert body_of("cohere", ask(response_format=JsonObject()))["response_format"] == {
        "type": "json_object"
    }
    with pytest.raises(InvalidRequest, match="cannot hold an answer to a"):
        encoded("cohere", ask(response_format=Regex(pattern="a")))


def test_cohere_reads_an_assistants_turn_and_never_continues_it() -> None:
    assert not dialect_for("cohere").may_prefill("command-a-03-2025")
    with pytest.raises(InvalidRequest):
        encoded("cohere", ask(PARTIAL), prefill=True)
    assert body_of("cohere", ask(PARTIAL))["messages"][-1]["role"] == "assistant"


def test_cohere_reads_tool_turns() -> None:
    messages = body_of("cohere", ask(WITH_TOOLS))["messages"]
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
    ]
    assert "content" not in messages[2]
    assert messages[2]["tool_calls"][1]["function"] == {"name": "clock", "arguments": "{}"}
    assert messages[3]["tool_call_id"] == "call_1"


def test_bedrock_has_the_model_in_its_path() -> None:
    path = encoded("bedrock", ask()).path
    assert path == "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream"
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/ab12"
    assert encoded("bedrock", ask(), model=arn).path == (
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3A"
        "application-inference-profile%2Fab12/converse-stream"
    )
    assert encoded("bedrock", ask()).headers["accept"] == "application/vnd.amazon.eventstream"


def test_bedrock_writes_out_a_conversation() -> None:
    body = body_of("bedrock", ask(WITH_TOOLS, tools=(WEATHER, CLOCK), tool_choice="required"))
    assert body["system"] == [{"text": "Be brief."}]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    weather, clock = (block["toolUse"] for block in body["messages"][1]["content"])
    assert weather == {"toolUseId": "call_1", "name": "weather", "input": {"city": "Rome"}}
    first, second, last = body["messages"][2]["content"]
    assert first["toolResult"] == {
        "toolUseId": "call_1",
        "content": [{"text": '{"celsius": 31}'}],
    }
    assert second["toolResult"]["toolUseId"] == clock["toolUseId"]
    assert last == {"text": "And in Oslo?"}
    assert body["toolConfig"]["toolChoice"] == {"any": {}}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": CITY}


def test_bedrock_takes_a_named_tool_and_none_at_all() -> None:
    named = body_of("bedrock", ask(tools=(CLOCK,), tool_choice=NamedTool(name="clock")))
    assert named["toolConfig"]["toolChoice"] == {"tool": {"name": "clock"}}
    assert "toolConfig" not in body_of("bedrock", ask(tools=(CLOCK,), tool_choice="none"))
    with pytest.raises(InvalidRequest, match="where tools may be called"):
        encoded("bedrock", ask(WITH_TOOLS))


def test_bedrocks_configuration_is_what_was_chosen_and_the_model_takes() -> None:
    request = ask(max_tokens=9, stop=("END", "\n"), sampling=Sampling(temperature=1.5, top_p=0.5))
    expected = {"maxTokens": 9, "stopSequences": ["END"], "temperature": 1.0}
    assert body_of("bedrock", request)["inferenceConfig"] == expected
    llama = body_of("bedrock", request, model="meta.llama3-70b-instruct-v1:0")
    assert llama["inferenceConfig"] == {**expected, "topP": 0.5}
    newest = body_of("bedrock", request, model="us.anthropic.claude-opus-5-v1:0")
    assert newest["inferenceConfig"] == {"maxTokens": 9, "stopSequences": ["END"]}


def test_bedrocks_response_formats() -> None:
    body = body_of("bedrock", ask(response_format=JsonSchema(schema=CITY, name="city")))
    written = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert (written["name"], json.loads(written["schema"])) == ("city", CITY)
    with pytest.raises(InvalidRequest, match="cannot hold an answer to a"):
        encoded("bedrock", ask(response_format=JsonObject()))


def test_on_bedrock_only_older_claudes_continue_a_turn() -> None:
    dialect = dialect_for("bedrock")
    assert dialect.may_prefill("eu.anthropic.claude-3-7-sonnet-20250219-v1:0")
    assert not dialect.may_prefill("anthropic.claude-opus-4-6-v1")
    assert not dialect.may_prefill("amazon.nova-pro-v1:0")
    assert not dialect.may_prefill("arn:aws:bedrock:us-east-1:1:application-inference-profile/a")
    sent = encoded("bedrock", ask(PARTIAL), prefill=True)
    assert (sent.prefilled, sent.trimmed) == ("Good day to", " \n")


def test_generate_stream_is_given_a_transcript() -> None:
    messages = (Message(role="system", content="Be brief."), *ask().messages)
    body = body_of("tgi", ask(messages, stop=("END",), max_tokens=9))
    assert body["inputs"] == "Be brief.\n\nUser: Hello\n\nAssistant:"
    assert body["parameters"] == {
        "max_new_tokens": 9,
        "stop": ["END", "\nUser:"],
        "details": True,
        "return_full_text": False,
        "do_sample": True,
    }
    assert encoded("tgi", ask(stop=tuple("abcde"))).stop == ("a", "b", "c")


def test_generate_stream_continues_an_unfinished_turn() -> None:
    body = body_of("tgi", ask(PARTIAL), prefill=True)
    assert body["inputs"] == "User: Hello\n\nAssistant: Good day to"


def test_generate_stream_is_given_the_models_own_template() -> None:
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    body = body_of("tgi", ask(), chat_template=template)
    assert body["inputs"] == "[user]Hello[assistant]"
    assert "stop" not in body["parameters"]
    body = body_of("tgi", ask(PARTIAL), chat_template=template, prefill=True)
    assert body["inputs"] == "[user]Hello[assistant]Good day to"


def test_generate_stream_takes_a_raw_prompt_as_it_is() -> None:
    request = GenerationRequest(prompt="Once upon", sampling=Sampling(temperature=0, top_p=0.3))
    body = body_of("tgi", request)
    assert body["inputs"] == "Once upon"
    assert body["parameters"]["do_sample"] is False
    assert not {"stop", "temperature", "top_p"} & body["parameters"].keys()


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        (JsonObject(), {"type": "json", "value": {"type": "object"}}),
        (JsonSchema(schema=CITY), {"type": "json", "value": CITY}),
        (Regex(pattern="a+"), {"type": "regex", "value": "a+"}),
    ],
)
def test_generate_stream_has_grammars(response_format: Any, grammar: Any) -> None:
    assert body_of("tgi", ask(response_format=response_format))["parameters"]["grammar"] == grammar


def test_generate_stream_refuses_tools_and_other_grammars() -> None:
    for request in (ask(tools=(CLOCK,)), ask(response_format=Lark(grammar="start: /a/"))):
        with pytest.raises(InvalidRequest):
            encoded("tgi", request)
