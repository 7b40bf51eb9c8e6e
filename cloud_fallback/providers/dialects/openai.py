"""OpenAI's chat completions, as OpenAI, Azure, Hugging Face and many servers speak them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.companies import MaxTokensField, Server
from spillover.cloud_fallback.providers.dialects.classes import answer_error
from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest
from spillover.cloud_fallback.providers.dialects.openai_stream import OpenAIDecoder
from spillover.cloud_fallback.providers.dialects.refusals import begins_anew
from spillover.cloud_fallback.providers.dialects.shape import (
    JSON_HEADERS,
    Prefill,
    body_bytes,
    check,
    chosen,
    function_call,
    safe_id,
    with_prefill,
)
from spillover.runtime.errors import ResponseFormatRefused
from spillover.runtime.request import (
    Gbnf,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    ResponseFormat,
    Tool,
)

_REASONING_MODEL = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9](?!.*chat)|gpt-\d\d)")
"""OpenAI's own reasoning models: they take neither samplers nor stop strings."""


class OpenAIDialect(Struct, frozen=True, kw_only=True):
    """*path* stands after the base address; {deployment} in it is *deployment*, else the model.
    *headers* are sent with every request."""

    provider: str
    server: Server
    path: str = "/chat/completions"
    headers: dict[str, str] = {}
    deployment: str | None = None
    """Azure's name for the model, where it is not the model's own."""
    max_tokens_field: MaxTokensField | None = None
    """None: what the kind of server usually takes."""

    @property
    def framing(self) -> Literal["sse"]:
        return "sse"

    def key_headers(self, key: str) -> dict[str, str]:
        if self.server.key_header and not key.startswith("eyJ"):  # else a token of Entra ID
            return {self.server.key_header: key}
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
        server = self.server
        if prefill and server.prefill == "none":
            raise begins_anew(self.provider)
        request, unfinished = with_prefill(request, prefill=prefill)
        stops = self._stops(request, model, without)
        fields = {
            "model": self.deployment or model,
            "messages": self._messages(request, unfinished),
            "stream": True,
            "stream_options": self._stream_options(without),
            "stop": list(stops) or None,
            self._max_tokens_field(without): request.max_tokens,
            **self._samplers(request, model),
            **_tools(request),
            **_response_format(request.response_format, server, self.provider),
        }
        if request.template_kwargs and server.takes_template_kwargs:
            fields["chat_template_kwargs"] = request.template_kwargs
        if unfinished.text and server.prefill == "flags":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        return HttpRequest(
            path=self.path.replace("{deployment}", quote(self.deployment or model, safe="")),
            headers=JSON_HEADERS | self.headers,
            body=body_bytes(fields, without - {"max_tokens", "max_completion_tokens"}),
            stop=stops,
            prefilled=unfinished.text,
            trimmed=unfinished.trimmed,
        )

    def _stops(
        self, request: GenerationRequest, model: str, without: frozenset[str]
    ) -> tuple[str, ...]:
        if "stop" in without or self._is_reasoning(model):
            return ()
        return request.stop[: self.server.n_stops]

    def _is_reasoning(self, model: str) -> bool:
        return self.server.has_reasoning_models and bool(_REASONING_MODEL.match(model))

    def _max_tokens_field(self, without: frozenset[str]) -> str:
        field = self.max_tokens_field or self.server.max_tokens_field
        if field not in without:
            return field
        return "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"

    def _stream_options(self, without: frozenset[str]) -> dict[str, bool] | None:
        if self.server.sends_usage_unasked:
            return None
        options = {"include_usage": True}
        if self.server.takes_obfuscation and "include_obfuscation" not in without:
            options["include_obfuscation"] = False
        return options

    def _messages(self, request: GenerationRequest, unfinished: Prefill) -> list[dict[str, Any]]:
        server = self.server
        messages = [_message(message, server) for message in request.messages]
        if unfinished.text and server.prefill == "prefix":
            messages[-1]["prefix"] = True
        return messages

    def _samplers(self, request: GenerationRequest, model: str) -> dict[str, Any]:
        if self._is_reasoning(model):
            return {}
        sampling = request.sampling
        extra = self.server.samplers
        ours = chosen(sampling, *(name for name, _ in extra))
        return chosen(sampling, "temperature", "top_p", "presence_penalty", "frequency_penalty") | {
            theirs: ours[name] for name, theirs in extra if name in ours
        }

    def decoder(self, sent: HttpRequest | None = None) -> OpenAIDecoder:
        return OpenAIDecoder(self.provider, sent, echoes=self.server.echoes)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return answer_error(self.provider, status, headers, body)

    def may_prefill(self, model: str) -> bool:
        return self.server.prefill != "none"


def _message(message: Message, server: Server) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    fields: dict[str, Any] = {"role": role, "content": message.content}
    if message.name and role != "tool" and not server.is_mistral:
        fields["name"] = re.sub(r"[\s<|\\/>]", "_", message.name)[:64]
    if message.tool_calls:
        fields["content"] = message.content or None
        fields["tool_calls"] = [
            function_call(call, _call_id(call.id, server)) for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = _call_id(message.tool_call_id, server)
    return fields


def _call_id(call_id: str, server: Server) -> str:
    return safe_id(call_id, allowed="A-Za-z0-9", n_max=9) if server.is_mistral else call_id


def _tools(request: GenerationRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice: Any = request.tool_choice
    if isinstance(choice, NamedTool):
        choice = {"type": "function", "function": {"name": choice.name}}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in request.tools]}
    if choice != "auto":
        fields["tool_choice"] = choice
    if not request.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _response_format(
    response_format: ResponseFormat | None, server: Server, provider: str
) -> dict[str, Any]:
    match response_format:
        case None:
            return {}
        case JsonObject():
            return {"response_format": {"type": "json_object"}}
        case JsonSchema():
            schema = {
                "name": response_format.name,
                "schema": response_format.schema,
                "strict": response_format.strict,
            }
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case Regex():
            return _in_field(
                server.regex_field, response_format.pattern, "a regular expression", provider
            )
        case Lark():
            return _in_field(server.lark_field, response_format.grammar, "a Lark grammar", provider)
        case Gbnf():
            return _in_field(server.gbnf_field, response_format.grammar, "a GBNF grammar", provider)


def _in_field(field: str | None, value: str, what: str, provider: str) -> dict[str, Any]:
    if field is None:
        raise ResponseFormatRefused(f"{provider} cannot hold an answer to {what}")
    outer, _, inner = field.partition(".")
    return {outer: {inner: value} if inner else value}
