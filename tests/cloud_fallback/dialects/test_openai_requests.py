"""Requests in OpenAI's dialect, and in what its servers make of it."""

from __future__ import annotations

from typing import Any

import pytest

from spillover.cloud_fallback.providers.companies import SERVERS, server_at
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import (
    Gbnf,
    JsonObject,
    JsonSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    ResponseFormat,
    Tool,
    ToolCall,
)
from spillover.runtime.sampling import Sampling
from tests.cloud_fallback.dialects.conversations import (
    CITY,
    CLOCK,
    HELLO,
    PARTIAL,
    WEATHER,
    WITH_TOOLS,
    ask,
    body_of,
    dialect_for,
    encoded,
)


def test_a_plain_question_asks_for_a_stream_with_usage_and_leaves_sampling_to_the_model() -> None:
    sent = encoded("openai", ask(max_tokens=5))
    assert sent.path == "/chat/completions"
    assert body_of("openai", ask(max_tokens=5)) == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "max_completion_tokens": 5,
    }


def test_samplers_that_were_chosen_are_sent_where_the_server_has_them() -> None:
    sampling = Sampling(temperature=0.2, top_p=0.5, top_k=7, min_p=0.1, repeat_penalty=1.2, seed=3)
    sent = {"temperature": 0.2, "top_p": 0.5, "seed": 3}
    assert sent.items() <= body_of("openai", ask(sampling=sampling)).items()
    assert "top_k" not in body_of("openai", ask(sampling=sampling))
    more = {**sent, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2}
    assert more.items() <= body_of("openai", ask(sampling=sampling), server="vllm").items()
    theirs = body_of("openai", ask(sampling=sampling), server="mistral")
    assert theirs["random_seed"] == 3
    assert "seed" not in theirs


@pytest.mark.parametrize("server", ["llama-server", "spillover"])
def test_a_server_like_ours_takes_all_of_our_samplers(server: str) -> None:
    every_server = {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
    ours = set(Sampling.__struct_fields__) - {"logit_bias"}
    assert set(SERVERS[server].samplers) == ours - every_server


@pytest.mark.parametrize("model", ["gpt-5-mini", "o3", "openai/o4-mini", "gpt-5.6"])
def test_reasoning_models_get_neither_samplers_nor_stop_strings(model: str) -> None:
    request = ask(sampling=Sampling(temperature=0.2), stop=("END",))
    assert encoded("openai", request, model=model).stop == ()
    body = body_of("openai", request, model=model)
    assert not {"temperature", "stop"} & body.keys()


@pytest.mark.parametrize("model", ["gpt-5-chat-latest", "gpt-4.1", "omni-small"])
def test_other_models_get_both(model: str) -> None:
    request = ask(sampling=Sampling(temperature=0.2), stop=("END",))
    assert {"temperature", "stop"} <= body_of("openai", request, model=model).keys()


def test_a_field_that_was_refused_is_left_out() -> None:
    request = ask(sampling=Sampling(temperature=0.2), stop=("END",), max_tokens=5)
    refused = frozenset({"temperature", "stop", "stream_options", "max_completion_tokens"})
    assert encoded("openai", request, without=refused).stop == ()
    assert body_of("openai", request, without=refused) == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "max_tokens": 5,
    }


def test_the_provider_says_which_stop_strings_it_takes() -> None:
    request = ask(stop=("a", "b", "c", "d", "e"))
    assert encoded("openai", request).stop == ("a", "b", "c", "d")
    assert body_of("openai", request)["stop"] == ["a", "b", "c", "d"]
    assert encoded("openai", request, server="vllm").stop == request.stop


def test_the_name_of_max_tokens_can_be_set() -> None:
    body = body_of("openai", ask(max_tokens=5), max_tokens_field="max_tokens")
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body
    assert body_of("openai", ask(max_tokens=5), server="other")["max_tokens"] == 5


def test_tools_and_their_turns_are_written_out() -> None:
    request = ask(WITH_TOOLS, tools=(WEATHER, Tool(name="clock", strict=True)))
    body = body_of("openai", request)
    assert body["messages"][:4] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it warm in Rome?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                },
                {
                    "id": "call.2/b",
                    "type": "function",
                    "function": {"name": "clock", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "content": '{"celsius": 31}', "tool_call_id": "call_1"},
    ]
    weather, clock = body["tools"]
    assert weather["function"] == {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": CITY,
    }
    assert clock == {"type": "function", "function": {"name": "clock", "strict": True}}
    assert not {"tool_choice", "parallel_tool_calls"} & body.keys()


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        ("none", "none"),
        ("required", "required"),
        (NamedTool(name="clock"), {"type": "function", "function": {"name": "clock"}}),
    ],
)
def test_a_tool_choice_is_passed_on(choice: Any, wire: Any) -> None:
    request = ask(tools=(CLOCK,), tool_choice=choice, parallel_tool_calls=False)
    body = body_of("openai", request)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (wire, False)


def test_mistral_gets_ids_of_nine_letters_and_digits() -> None:
    messages = body_of("openai", ask(WITH_TOOLS), server="mistral")["messages"]
    ids = [call["id"] for call in messages[2]["tool_calls"]]
    assert ids == [message["tool_call_id"] for message in messages[3:5]]
    assert all(len(id) == 9 and id.isalnum() for id in ids)
    assert ids[0] != ids[1]


def test_template_arguments_are_passed_on_where_there_is_a_template() -> None:
    request = ask(template_kwargs={"enable_thinking": False})
    for server in ("vllm", "sglang", "llama-server"):
        body = body_of("openai", request, server=server)
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in body_of("openai", request)


def test_names_are_written_in_the_allowed_characters() -> None:
    request = ask((Message(role="user", content="Hello", name="Ann B./C"),))
    assert body_of("openai", request)["messages"][0]["name"] == "Ann_B._C"
    assert "name" not in body_of("openai", request, server="mistral")["messages"][0]


def test_json_formats_are_passed_on() -> None:
    body = body_of("openai", ask(response_format=JsonSchema(schema=CITY, name="city", strict=True)))
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": CITY, "strict": True},
    }
    assert body_of("openai", ask(response_format=JsonObject()))["response_format"] == {
        "type": "json_object"
    }


@pytest.mark.parametrize(
    "response_format",
    [Regex(pattern="a+"), Lark(grammar="start: /a/"), Gbnf(grammar='root ::= "a"')],
)
def test_grammars_are_refused_by_name_in_the_cloud(response_format: ResponseFormat) -> None:
    with pytest.raises(InvalidRequest, match="cannot hold an answer to a") as error:
        encoded("openai", ask(response_format=response_format))
    assert error.value.param == "response_format"


@pytest.mark.parametrize(
    ("server", "response_format", "wire"),
    [
        ("vllm", Regex(pattern="a+"), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", Lark(grammar="start: /a/"), {"structured_outputs": {"grammar": "start: /a/"}}),
        ("sglang", Regex(pattern="a+"), {"regex": "a+"}),
        ("llama-server", Gbnf(grammar='root ::= "a"'), {"grammar": 'root ::= "a"'}),
    ],
)
def test_grammars_are_passed_on_to_servers_that_have_them(
    server: str, response_format: ResponseFormat, wire: dict[str, Any]
) -> None:
    assert (
        wire.items()
        <= body_of("openai", ask(response_format=response_format), server=server).items()
    )


@pytest.mark.parametrize("server", ["vllm", "sglang", "ray", "llama-server", "spillover"])
def test_servers_with_the_flags_continue_an_unfinished_turn(server: str) -> None:
    assert dialect_for("openai", server=server).may_prefill("any")
    sent = encoded("openai", ask(PARTIAL), server=server, prefill=True)
    body = body_of("openai", ask(PARTIAL), server=server, prefill=True)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["messages"][-1] == {"role": "assistant", "content": "Good day to"}
    assert (sent.prefilled, sent.trimmed) == ("Good day to", " \n")


def test_without_prefill_an_assistants_turn_is_a_finished_one() -> None:
    body = body_of("openai", ask(PARTIAL), server="vllm")
    assert body["messages"][-1]["content"] == "Good day to \n"
    assert "continue_final_message" not in body


@pytest.mark.parametrize("server", ["deepseek", "mistral"])
def test_servers_with_a_prefix_get_it_on_the_last_message(server: str) -> None:
    last = body_of("openai", ask(PARTIAL), server=server, prefill=True)["messages"][-1]
    assert last == {"role": "assistant", "content": "Good day to", "prefix": True}


@pytest.mark.parametrize("server", ["openai", "ollama", "lmstudio", "openrouter", "other"])
def test_other_servers_are_never_asked_to_continue_a_turn(server: str) -> None:
    assert not dialect_for("openai", server=server).may_prefill("any")
    with pytest.raises(InvalidRequest):
        encoded("openai", ask(PARTIAL), server=server, prefill=True)


def test_a_turn_of_only_white_space_is_not_prefilled() -> None:
    messages = (*HELLO, Message(role="assistant", content=" \n"))
    body = body_of("openai", ask(messages), server="vllm", prefill=True)
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert "continue_final_message" not in body
    assert encoded("openai", ask(messages), server="vllm", prefill=True).trimmed == " \n"


@pytest.mark.parametrize(
    "messages",
    [
        HELLO,
        (*HELLO, Message(role="assistant", content="x", tool_calls=WITH_TOOLS[2].tool_calls)),
    ],
)
def test_only_text_can_be_continued(messages: tuple[Message, ...]) -> None:
    with pytest.raises(InvalidRequest):
        encoded("openai", ask(messages), server="vllm", prefill=True)


def test_a_response_format_cannot_be_continued() -> None:
    with pytest.raises(InvalidRequest) as error:
        encoded("openai", ask(PARTIAL, response_format=JsonObject()), server="vllm", prefill=True)
    assert error.value.param == "response_format"


def test_azure_is_asked_by_its_deployment() -> None:
    old = encoded("azure", ask(), deployment="my gpt", api_version="2024-10-21")
    assert old.path == "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    assert encoded("azure", ask(), api_version="2024-10-21").path.startswith(
        "/openai/deployments/gpt-4o/"
    )
    assert encoded("azure", ask()).path == "/openai/v1/chat/completions"
    base = "https://me.openai.azure.com/openai/v1/"
    assert encoded("azure", ask(), base_url=base).path == "/chat/completions"
    assert body_of("azure", ask(), deployment="my gpt")["model"] == "my gpt"


def test_azure_takes_keys_and_tokens_of_entra() -> None:
    assert dialect_for("azure").key_headers("0a1b") == {"api-key": "0a1b"}
    assert dialect_for("azure").key_headers("eyJh") == {"authorization": "Bearer eyJh"}


def test_hugging_face_holds_a_request_while_an_endpoint_starts() -> None:
    sent = encoded("huggingface", ask(), first_text_timeout_s=90)
    assert sent.headers["x-scale-up-timeout"] == "90"
    assert sent.path == "/v1/chat/completions"
    assert encoded("huggingface", ask(), base_url="https://x.y/v1").path == "/chat/completions"


def test_hugging_faces_router_is_not_asked_to_continue_a_turn() -> None:
    router = "https://router.huggingface.co/v1"
    assert not dialect_for("huggingface", base_url=router).may_prefill("any")
    assert dialect_for("huggingface", base_url="https://x.y").may_prefill("any")
    assert dialect_for("huggingface", base_url=router, server="vllm").may_prefill("any")


@pytest.mark.parametrize(
    ("base_url", "server"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.deepseek.com/beta", "deepseek"),
        ("https://api.deepseek.com/v1", "other"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://abc.us-east-1.aws.endpoints.huggingface.cloud/v1", "huggingface"),
        ("http://192.168.0.7:8000/v1", "other"),
        ("https://api.openai.com.example.net/v1", "other"),
        ("not an address", "other"),
    ],
)
def test_the_kind_of_server_is_known_by_its_address(base_url: str, server: str) -> None:
    assert server_at(base_url).name == server


def test_no_request_holds_a_key() -> None:
    assert dialect_for("openai").key_headers("sk-1") == {"authorization": "Bearer sk-1"}
    assert "authorization" not in encoded("openai", ask()).headers


def test_a_tool_call_without_arguments_has_an_empty_object() -> None:
    call = ToolCall(id="a", name="clock", arguments="")
    messages = (*HELLO, Message(role="assistant", content="", tool_calls=(call,)))
    written = body_of("openai", ask(messages))["messages"][-1]["tool_calls"][0]
    assert written["function"] == {"name": "clock", "arguments": "{}"}
