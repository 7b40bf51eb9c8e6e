"""Google's Gemini: generateContent of AI Studio and of Vertex AI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.classes import answer_error
from spillover.cloud_fallback.providers.dialects.conversation import alternating
from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest
from spillover.cloud_fallback.providers.dialects.gemini_stream import GeminiDecoder
from spillover.cloud_fallback.providers.dialects.model_ids import (
    gemini_continues,
    gemini_signs_calls,
)
from spillover.cloud_fallback.providers.dialects.refusals import check_parallel, holds_only
from spillover.cloud_fallback.providers.dialects.shape import (
    JSON_HEADERS,
    arguments_object,
    body_bytes,
    chosen,
    tool_names,
    without_nones,
)
from spillover.cloud_fallback.providers.dialects.signatures import Signatures
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    NamedTool,
    ResponseFormat,
    Tool,
)

MAX_STOPS = 5
MAX_SEED = 2**31 - 1
UNSIGNED_CALL = "skip_thought_signature_validator"
"""Stands in the history for the signature of a call that another model made, as Google says."""

_SAMPLERS = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "seed": "seed"}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}


class GeminiDialect(Struct, frozen=True, kw_only=True):
    """*models* is the path of the models' folder after the base address."""

    provider: str
    models: str = "/v1beta/models"
    takes_tokens: bool = False
    """A key that does not look like an API key is an OAuth token."""
    signatures: Signatures = field(default_factory=Signatures)
    """Of the calls that the model has made; without them it does not know its own thoughts."""

    @property
    def framing(self) -> Literal["sse"]:
        return "sse"

    def key_headers(self, key: str) -> dict[str, str]:
        is_api_key = key.startswith(("AIza", "AQ."))
        if key.startswith("ya29.") or (self.takes_tokens and not is_api_key):
            return {"authorization": f"Bearer {key}"}
        return {"x-goog-api-key": key}

    def encode(
        self,
        request: GenerationRequest,
        model: str,
        *,
        prefill: bool,
        without: frozenset[str] = frozenset(),
    ) -> HttpRequest:
        conversation = alternating(request, prefill=prefill, provider=self.provider)
        stops = request.stop[:MAX_STOPS]
        system = conversation.system
        config = {
            "maxOutputTokens": request.max_tokens,
            "stopSequences": list(stops) or None,
            **_samplers(request, without),
            **_response_format(request.response_format, self.provider),
        }
        signatures = self.signatures if gemini_signs_calls(model) else None
        writer = _PartWriter(request, signatures)
        fields = {
            "contents": [
                {
                    "role": "model" if turn.side == "assistant" else "user",
                    "parts": writer.parts(turn.messages),
                }
                for turn in conversation.turns
            ],
            "systemInstruction": {"parts": [{"text": system}]} if system else None,
            "generationConfig": without_nones(config),
            **_tools(request, self.provider),
        }
        name = quote(model.removeprefix("models/"), safe="@")
        return HttpRequest(
            path=f"{self.models}/{name}:streamGenerateContent?alt=sse",
            headers=JSON_HEADERS,
            body=body_bytes(fields, frozenset()),
            stop=stops,
            prefilled=conversation.prefill.text,
            trimmed=conversation.prefill.trimmed,
        )

    def decoder(self, sent: HttpRequest | None = None) -> GeminiDecoder:
        return GeminiDecoder(self.provider, sent, self.signatures)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return answer_error(self.provider, status, headers, body)

    def may_prefill(self, model: str) -> bool:
        return gemini_continues(model)


class _PartWriter:
    """Writes messages as parts. Gemini matches a tool's answer to its call by the tool's name."""

    def __init__(self, request: GenerationRequest, signatures: Signatures | None) -> None:
        """*signatures* None: the model signs nothing."""
        self._names = tool_names(request.messages)
        self._signatures = signatures

    def parts(self, messages: tuple[Message, ...]) -> list[dict[str, Any]]:
        return [part for message in messages for part in self._message(message)]

    def _message(self, message: Message) -> list[dict[str, Any]]:
        if message.role == "tool":
            name = self._names.get(message.tool_call_id or "") or message.name or "tool"
            return [{"functionResponse": {"name": name, "response": _response(message.content)}}]
        text = [{"text": message.content}] if message.content.strip() else []
        return [*text, *self._calls(message)]

    def _calls(self, message: Message) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = [
            {"functionCall": {"name": call.name, "args": arguments_object(call)}}
            for call in message.tool_calls
        ]
        if calls and self._signatures is not None:
            # Of calls that are made together only the first one is signed.
            calls[0]["thoughtSignature"] = UNSIGNED_CALL
            for part, call in zip(calls, message.tool_calls, strict=True):
                if signature := self._signatures.of(call.id):
                    part["thoughtSignature"] = signature
        return calls


def _response(content: str) -> Any:
    """A tool's answer as the object that is asked for."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"result": content}


def _samplers(request: GenerationRequest, without: frozenset[str]) -> dict[str, Any]:
    fields = chosen(request.sampling, *_SAMPLERS)
    if fields.get("seed", 0) > MAX_SEED:
        del fields["seed"]
    if "temperature" in fields:
        fields["temperature"] = min(fields["temperature"], 2.0)
    return {_SAMPLERS[name]: value for name, value in fields.items() if name not in without}


def _tools(request: GenerationRequest, provider: str) -> dict[str, Any]:
    if not request.tools:
        return {}
    check_parallel(request, provider)
    fields: dict[str, Any] = {
        "tools": [{"functionDeclarations": [_tool(tool) for tool in request.tools]}]
    }
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        mode: dict[str, Any] = {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    elif choice == "auto" and any(tool.strict for tool in request.tools):
        mode = {"mode": "VALIDATED"}
    else:
        mode = {"mode": _MODES[choice]}
    if mode != {"mode": "AUTO"}:
        fields["toolConfig"] = {"functionCallingConfig": mode}
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters:
        fields["parametersJsonSchema"] = tool.parameters
    return fields


def _response_format(response_format: ResponseFormat | None, provider: str) -> dict[str, Any]:
    match response_format:
        case None:
            return {}
        case JsonObject():
            return {"responseMimeType": "application/json"}
        case JsonSchema():
            return {
                "responseMimeType": "application/json",
                "responseJsonSchema": response_format.schema,
            }
        case _:
            raise holds_only(provider, "JSON or a JSON schema")
