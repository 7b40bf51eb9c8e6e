"""AWS Bedrock's ConverseStream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.bedrock_stream import BedrockDecoder
from spillover.cloud_fallback.providers.dialects.classes import answer_error
from spillover.cloud_fallback.providers.dialects.conversation import Conversation, alternating
from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest
from spillover.cloud_fallback.providers.dialects.model_ids import (
    claude_continues,
    claude_takes_samplers,
    is_claude,
)
from spillover.cloud_fallback.providers.dialects.refusals import check_parallel, holds_only
from spillover.cloud_fallback.providers.dialects.shape import (
    arguments_object,
    body_bytes,
    chosen,
    parameters_of,
    safe_id,
    without_nones,
)
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import (
    GenerationRequest,
    JsonSchema,
    Message,
    NamedTool,
    ResponseFormat,
    Tool,
)

_HEADERS = {
    "content-type": "application/json",
    "accept": "application/vnd.amazon.eventstream",
}


class BedrockDialect(Struct, frozen=True, kw_only=True):
    """Its key is a bearer key; requests that AWS credentials sign are signed elsewhere."""

    provider: str

    @property
    def framing(self) -> Literal["eventstream"]:
        return "eventstream"

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
        conversation = alternating(request, prefill=prefill, provider=self.provider)
        stops = () if "stop" in without else tuple(s for s in request.stop if s.strip())
        config = {
            "maxTokens": request.max_tokens,
            "stopSequences": list(stops) or None,
            **_samplers(request, model, without),
        }
        fields = {
            "messages": [
                {"role": turn.side, "content": [b for m in turn.messages for b in _blocks(m)]}
                for turn in conversation.turns
            ],
            "system": [{"text": conversation.system}] if conversation.system else None,
            "inferenceConfig": without_nones(config),
            "toolConfig": _tools(request, conversation, self.provider),
            "outputConfig": _response_format(request.response_format, self.provider),
        }
        return HttpRequest(
            path=f"/model/{quote(model, safe='')}/converse-stream",
            headers=_HEADERS,
            body=body_bytes(fields, frozenset()),
            stop=stops,
            prefilled=conversation.prefill.text,
            trimmed=conversation.prefill.trimmed,
        )

    def decoder(self, sent: HttpRequest | None = None) -> BedrockDecoder:
        return BedrockDecoder(self.provider, sent)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return answer_error(self.provider, status, headers, body)

    def may_prefill(self, model: str) -> bool:
        return claude_continues(model)


def _samplers(request: GenerationRequest, model: str, without: frozenset[str]) -> dict[str, float]:
    if not claude_takes_samplers(model):
        return {}
    ours = chosen(request.sampling, "temperature", "top_p")
    fields: dict[str, float] = {}
    if "temperature" in ours and "temperature" not in without:
        fields["temperature"] = min(ours["temperature"], 1.0)
    if "top_p" in ours and "top_p" not in without and not (fields and is_claude(model)):
        fields["topP"] = ours["top_p"]
    return fields


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        # An empty text block is refused.
        is_empty = not message.content.strip()
        content: dict[str, Any] = {"json": {}} if is_empty else {"text": message.content}
        call_id = _call_id(message.tool_call_id or "")
        return [{"toolResult": {"toolUseId": call_id, "content": [content]}}]
    text = [{"text": message.content}] if message.content.strip() else []
    calls = [
        {
            "toolUse": {
                "toolUseId": _call_id(call.id),
                "name": call.name,
                "input": arguments_object(call),
            }
        }
        for call in message.tool_calls
    ]
    return [*text, *calls]


def _call_id(call_id: str) -> str:
    return safe_id(call_id, allowed="a-zA-Z0-9_.:-")


def _tools(
    request: GenerationRequest, conversation: Conversation, provider: str
) -> dict[str, Any] | None:
    is_used = any(
        message.tool_calls or message.role == "tool"
        for turn in conversation.turns
        for message in turn.messages
    )
    if not request.tools or request.tool_choice == "none":
        if is_used:
            raise InvalidRequest(
                f"{provider} takes a conversation with tool calls only where tools may be called",
                "tools",
            )
        return None
    check_parallel(request, provider)
    config: dict[str, Any] = {"tools": [{"toolSpec": _tool(tool)} for tool in request.tools]}
    if isinstance(request.tool_choice, NamedTool):
        config["toolChoice"] = {"tool": {"name": request.tool_choice.name}}
    elif request.tool_choice == "required":
        config["toolChoice"] = {"any": {}}
    return config


def _tool(tool: Tool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": tool.name,
        "inputSchema": {"json": parameters_of(tool)},
    }
    if tool.description:
        fields["description"] = tool.description
    if tool.strict:
        fields["strict"] = True
    return fields


def _response_format(
    response_format: ResponseFormat | None, provider: str
) -> dict[str, Any] | None:
    if response_format is None:
        return None
    if not isinstance(response_format, JsonSchema):
        raise holds_only(provider, "a JSON schema")
    schema = msgspec.json.encode(response_format.schema).decode()
    structure = {"jsonSchema": {"name": response_format.name, "schema": schema}}
    return {"textFormat": {"type": "json_schema", "structure": structure}}
