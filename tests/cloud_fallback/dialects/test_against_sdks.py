"""The providers' own packages take what is sent."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

from spillover.runtime.request import GenerationRequest, JsonSchema, NamedTool, Tool
from spillover.runtime.sampling import Sampling
from tests.cloud_fallback.dialects.conversations import (
    CITY,
    CLOCK,
    PARTIAL,
    WEATHER,
    WITH_TOOLS,
    ask,
    body_of,
)

SAMPLING = Sampling(temperature=0.5, top_p=0.5, top_k=5, seed=7)
FULL = ask(
    WITH_TOOLS,
    max_tokens=9,
    stop=("END",),
    sampling=SAMPLING,
    tools=(WEATHER, Tool(name="strict", strict=True, parameters=CITY)),
    tool_choice=NamedTool(name="weather"),
)
REQUESTS = [
    ask(),
    FULL,
    ask(tools=(CLOCK,), tool_choice="required"),
    ask(response_format=JsonSchema(schema=CITY, name="city")),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_openai_knows_every_field(request_: GenerationRequest) -> None:
    pydantic = pytest.importorskip("pydantic")
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    body = body_of("openai", request_)
    pydantic.TypeAdapter(CompletionCreateParamsStreaming).validate_python(body)
    assert body.keys() <= get_type_hints(CompletionCreateParamsStreaming).keys()


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-5"])
def test_anthropic_knows_every_field(request_: GenerationRequest, model: str) -> None:
    pydantic = pytest.importorskip("pydantic")
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    body = body_of("anthropic", request_, model=model)
    for sampler in ("temperature", "top_k"):  # only older models take them: the package forgot
        body.pop(sampler, None)
    pydantic.TypeAdapter(MessageCreateParamsStreaming).validate_python(body)
    assert body.keys() <= get_type_hints(MessageCreateParamsStreaming).keys()


@pytest.mark.parametrize("request_", [*REQUESTS, ask(tools=(CLOCK,))])
def test_google_knows_every_field(request_: GenerationRequest) -> None:
    from google.genai import types

    body = body_of("gemini", request_, model="gemini-3-pro-preview")
    for content in body.pop("contents"):
        for part in content["parts"]:
            part.pop("thoughtSignature", None)  # a word instead of bytes, which only the API takes
        types.Content.model_validate(content)
    kinds: dict[str, Any] = {
        "systemInstruction": types.Content,
        "generationConfig": types.GenerationConfig,
        "toolConfig": types.ToolConfig,
    }
    for tool in body.pop("tools", ()):
        types.Tool.model_validate(tool)
    for name, value in body.items():
        kinds[name].model_validate(value)


@pytest.mark.parametrize("request_", REQUESTS)
def test_cohere_knows_every_field(request_: GenerationRequest) -> None:
    from cohere import ClientV2

    known = inspect.signature(ClientV2.chat_stream).parameters.keys() | {"stream"}
    assert body_of("cohere", request_).keys() <= known


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("model", ["anthropic.claude-sonnet-4-5-v1:0", "amazon.nova-pro-v1:0"])
def test_aws_knows_every_field(request_: GenerationRequest, model: str) -> None:
    from botocore.session import Session
    from botocore.validate import validate_parameters

    service = Session().get_service_model("bedrock-runtime")
    shape = service.operation_model("ConverseStream").input_shape
    body = body_of("bedrock", request_, model=model)
    validate_parameters({"modelId": model, **body}, shape)


def test_a_prefilled_turn_is_known_to_aws_and_anthropic() -> None:
    pydantic = pytest.importorskip("pydantic")
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    body = body_of("anthropic", ask(PARTIAL), prefill=True)
    pydantic.TypeAdapter(MessageCreateParamsStreaming).validate_python(body)
