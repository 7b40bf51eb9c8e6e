"""How errors look: OpenAI's words for OpenAI's clients, numbers for llama.cpp's."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.wire.dialect import failure
from spillover.edge_server.wire.errors import WireError, from_exception
from spillover.edge_server.wire.llama_cpp.objects import error_body as llama_cpp_body
from spillover.edge_server.wire.openai.answer import error_body as openai_body
from spillover.runtime.errors import EngineBusy, EngineClosed

LONG = "a b " * 2000
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/chat/completions", {}, "missing_required_parameter"),
        ("/v1/chat/completions", CHAT | {"temperature": "hot"}, "invalid_type"),
        ("/v1/chat/completions", CHAT | {"temperature": -1}, "invalid_value"),
        ("/v1/chat/completions", CHAT | {"logit_bias": {"99999": 1}}, "invalid_value"),
        ("/v1/completions", {"prompt": LONG}, "context_length_exceeded"),
        ("/v1/completions", {"prompt": [LONG, "x"]}, "context_length_exceeded"),
        ("/v1/nothing", {}, "unknown_url"),
    ],
)
def test_the_code_is_a_word(http: httpx.Client, path: str, body: Any, code: str) -> None:
    """It was the HTTP number, which typed clients cannot read and agents do not look for."""
    assert http.post(path, json=body).json()["error"]["code"] == code


def test_the_official_client_finds_the_code_of_an_overflow(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": LONG}]
    with pytest.raises(
        openai.BadRequestError, match="exceeds the available context size"
    ) as caught:
        client.chat.completions.create(model="m", messages=messages)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.type == "exceed_context_size_error"


def test_a_model_that_is_not_here_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"
    assert "storyteller" in caught.value.message


@pytest.mark.parametrize("path", ["/completion", "/completions", "/tokenize", "/props"])
def test_llama_cpps_clients_get_its_numbers(http: httpx.Client, path: str) -> None:
    error = http.request("PUT", path, json={"prompt": 5}).json()["error"]
    assert error["code"] == 405


def test_llama_cpps_clients_get_both_numbers_of_an_overflow(http: httpx.Client) -> None:
    error = http.post("/completion", json={"prompt": LONG}).json()["error"]
    assert error["code"] == 400
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] > error["n_ctx"] == 1024


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WireError(401, "x"), "invalid_api_key"),
        (from_exception(EngineBusy("x", 3)), "rate_limit_exceeded"),
        (from_exception(EngineClosed("x")), "service_unavailable"),
        (from_exception(KeyError("x")), "server_error"),
        (failure(Failed(code="engine_error", message="x")), "engine_error"),
    ],
)
def test_each_error_has_its_word_and_its_number(error: WireError, code: str) -> None:
    assert f'"code": "{code}"'.encode() in openai_body(error)
    assert f'"code": {error.status}'.encode() in llama_cpp_body(error)


@pytest.mark.parametrize("most", [2**31 - 1, 2**63 - 1, 10**30])
def test_the_largest_integer_is_not_a_limit(http: httpx.Client, most: int) -> None:
    """Clients whose field must hold a number send it; it was a 400."""
    body = CHAT | {"stop": [" "], "temperature": 0}
    for field in ("max_tokens", "max_completion_tokens"):
        answer = http.post("/v1/chat/completions", json=body | {field: most})
        assert answer.status_code == 200, answer.text
    native = {"prompt": "Once upon a time", "stop": [" "], "n_predict": most}
    answer = http.post("/completion", json=native)
    assert answer.json()["generation_settings"]["n_predict"] == -1, answer.text
