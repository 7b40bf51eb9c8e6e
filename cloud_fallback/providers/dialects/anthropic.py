"""Anthropic's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.anthropic_stream import AnthropicDecoder
from spillover.cloud_fallback.providers.dialects.classes import answer_error
from spillover.cloud_fallback.providers.dialects.conversation import Turn, alternating
from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest
from spillover.cloud_fallback.providers.dialects.model_ids import (
    claude_continues,
    claude_max_tokens,
    claude_takes_samplers,
)
from spillover.cloud_fallback.providers.dialects.refusals import holds_only
from spillover.cloud_fallback.providers.dialects.shape import (
    JSON_HEADERS,
    arguments_object,
    body_bytes,
    chosen,
    parameters_of,
    safe_id,
)
from spillover.runtime.request import (
    GenerationRequest,
    JsonSchema,
    Message,
    NamedTool,
    ResponseFormat,
    Tool,
)
from spillover.runtime.sampling import Sampling

VERSION = "2023-06-01"

_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


class AnthropicDialect(Struct, frozen=True, kw_only=True):
    """*path* stands after the base address."""

    provider: str
    path: str = "/v1/messages"

    @property
    def framing(self) -> Literal["sse"]:
        return "sse"

    def key_headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key}

    def encode(
        self,
        request: GenerationRequest,
        model: str,
        *,
        prefill: bool,
        without: frozenset[str] = frozenset(),
    ) -> HttpRequest:
        conversation = alternating(request, prefill=prefill, provider=self.provider)
        stops = () if "stop" in without else _stops(request)
        fields = {
            "model": model,
            "max_tokens": request.max_tokens or claude_max_tokens(model),
            "stream": True,
            "system": conversation.system or None,
            "messages": [_turn(turn) for turn in conversation.turns],
            "stop_sequences": list(stops) or None,
            **(_samplers(request.sampling) if claude_takes_samplers(model) else {}),
            **_tools(request),
            **_response_format(request.response_format, self.provider),
        }
        return HttpRequest(
            path=self.path,
            headers=JSON_HEADERS | {"anthropic-version": VERSION},
            body=body_bytes(fields, without - {"max_tokens"}),
            stop=stops,
            prefilled=conversation.prefill.text,
            trimmed=conversation.prefill.trimmed,
        )

    def decoder(self, sent: HttpRequest | None = None) -> AnthropicDecoder:
        return AnthropicDecoder(self.provider, sent)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return answer_error(self.provider, status, headers, body)

    def may_prefill(self, model: str) -> bool:
        return claude_continues(model)


def _stops(request: GenerationRequest) -> tuple[str, ...]:
    """White space alone is refused as a stop string."""
    return tuple(stop for stop in request.stop if stop.strip())


def _samplers(sampling: Sampling) -> dict[str, Any]:
    fields = chosen(sampling, "temperature", "top_p", "top_k")
    if "temperature" in fields:
        fields["temperature"] = min(fields["temperature"], 1.0)
        fields.pop("top_p", None)  # the two together are refused
    return fields


def _turn(turn: Turn) -> dict[str, Any]:
    blocks = [block for message in turn.messages for block in _blocks(message)]
    return {"role": turn.side, "content": blocks}


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        call_id = safe_id(message.tool_call_id or "")
        return [{"type": "tool_result", "tool_use_id": call_id, "content": message.content}]
    text = [{"type": "text", "text": message.content}] if message.content.strip() else []
    calls = [
        {
            "type": "tool_use",
            "id": safe_id(call.id),
            "name": call.name,
            "input": arguments_object(call),
        }
        for call in message.tool_calls
    ]
    return [*text, *calls]


def _tools(request: GenerationRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in request.tools]}
    choice = request.tool_choice
    chosen_tool: dict[str, Any] = (
        {"type": "tool", "name": choice.name}
        if isinstance(choice, NamedTool)
        else {"type": _CHOICES[choice]}
    )
    if not request.parallel_tool_calls and choice != "none":
        chosen_tool["disable_parallel_tool_use"] = True
    if chosen_tool != {"type": "auto"}:
        fields["tool_choice"] = chosen_tool
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": tool.name,
        "input_schema": parameters_of(tool),
    }
    if tool.description:
        fields["description"] = tool.description
    if tool.strict:
        fields["strict"] = True
    return fields


def _response_format(response_format: ResponseFormat | None, provider: str) -> dict[str, Any]:
    if response_format is None:
        return {}
    if isinstance(response_format, JsonSchema):
        return {
            "output_config": {"format": {"type": "json_schema", "schema": response_format.schema}}
        }
    raise holds_only(provider, "a JSON schema")
