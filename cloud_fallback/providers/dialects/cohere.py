"""Cohere's chat, version 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.classes import answer_error
from spillover.cloud_fallback.providers.dialects.cohere_stream import CohereDecoder
from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest
from spillover.cloud_fallback.providers.dialects.refusals import (
    begins_anew,
    check_parallel,
    holds_only,
)
from spillover.cloud_fallback.providers.dialects.shape import (
    JSON_HEADERS,
    body_bytes,
    check,
    chosen,
    function_call,
    parameters_of,
)
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    NamedTool,
    ResponseFormat,
)
from spillover.runtime.sampling import Sampling

MAX_STOPS = 5

_LIMITS = {
    "temperature": ("temperature", 0.0, 1.0),
    "top_p": ("p", 0.01, 0.99),
    "top_k": ("k", 0, 500),
    "frequency_penalty": ("frequency_penalty", 0.0, 1.0),
    "presence_penalty": ("presence_penalty", 0.0, 1.0),
}
"""Our samplers as (its name, its least value, its greatest value)."""


class CohereDialect(Struct, frozen=True, kw_only=True):
    """*path* stands after the base address."""

    provider: str
    path: str = "/v2/chat"

    @property
    def framing(self) -> Literal["sse"]:
        return "sse"

    def key_headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    def encode(
        self,
        request: GenerationRequest,
        model: str,
        *,
        prefill: bool,
        without: frozenset[str] = frozenset(),
    ) -> HttpRequest:
        check(request, prefill=prefill)
        if prefill:
            raise begins_anew(self.provider)
        stops = () if "stop" in without else request.stop[:MAX_STOPS]
        fields = {
            "model": model,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            "max_tokens": request.max_tokens,
            "stop_sequences": list(stops) or None,
            **_samplers(request.sampling),
            **_tools(request, self.provider),
            **_response_format(request.response_format, self.provider),
        }
        return HttpRequest(
            path=self.path,
            headers=JSON_HEADERS,
            body=body_bytes(fields, without - {"max_tokens"}),
            stop=stops,
        )

    def decoder(self, sent: HttpRequest | None = None) -> CohereDecoder:
        return CohereDecoder(self.provider)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return answer_error(self.provider, status, headers, body)

    def may_prefill(self, model: str) -> bool:
        return False


def _message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    fields: dict[str, Any] = {"role": role}
    if message.content or not message.tool_calls:
        fields["content"] = message.content
    if message.tool_calls:
        fields["tool_calls"] = [function_call(call, call.id) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _samplers(sampling: Sampling) -> dict[str, Any]:
    fields = chosen(sampling, "seed")
    for name, value in chosen(sampling, *_LIMITS).items():
        theirs, least, greatest = _LIMITS[name]
        fields[theirs] = min(max(value, least), greatest)
    return fields


def _tools(request: GenerationRequest, provider: str) -> dict[str, Any]:
    if not request.tools:
        return {}
    check_parallel(request, provider)
    choice, tools = request.tool_choice, request.tools
    if isinstance(choice, NamedTool):  # it can only be told to call any of those it knows
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        choice = "required"
    fields: dict[str, Any] = {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": parameters_of(tool),
                },
            }
            for tool in tools
        ]
    }
    if choice != "auto":
        fields["tool_choice"] = choice.upper()
    if any(tool.strict for tool in tools):
        fields["strict_tools"] = True
    return fields


def _response_format(response_format: ResponseFormat | None, provider: str) -> dict[str, Any]:
    match response_format:
        case None:
            return {}
        case JsonObject():
            return {"response_format": {"type": "json_object"}}
        case JsonSchema():
            return {
                "response_format": {"type": "json_object", "json_schema": response_format.schema}
            }
        case _:
            raise holds_only(provider, "JSON or a JSON schema")
