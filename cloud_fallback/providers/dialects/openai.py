"""OpenAI's chat completions, as OpenAI, Azure, Hugging Face and many servers speak them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from spillover.cloud_fallback.providers.companies import Server
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Dialect
from spillover.cloud_fallback.providers.dialects.encoding import (
    Draft,
    HttpRequest,
    function_call,
    safe_id,
    tool_fields,
)
from spillover.cloud_fallback.providers.dialects.openai_stream import OpenAIDecoder
from spillover.cloud_fallback.providers.settings import ProviderSettings
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
)

_REASONING_MODEL = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9](?!.*chat)|gpt-\d\d)")


class OpenAIDialect(Dialect):
    """What the servers differ in stands in their records."""

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self.server = server = settings.server_kind
        self.can_prefill = server.prefill != "none"
        self.max_stops = server.n_stops
        self._max_tokens_field = settings.max_tokens_field or server.max_tokens_field
        self._deployment = settings.deployment if server.has_deployments else None
        self._api_version = settings.api_version if server.has_deployments else None

    def key_headers(self, key: str) -> dict[str, str]:
        if self.server.key_header and not key.startswith("eyJ"):  # else a token of Entra ID
            return {self.server.key_header: key}
        return super().key_headers(key)

    def path(self, model: str) -> str:
        if self._api_version is None:
            return f"{self.root}/chat/completions"
        deployment = quote(self._deployment or model, safe="")
        version = quote(self._api_version, safe="")
        return f"/openai/deployments/{deployment}/chat/completions?api-version={version}"

    def stops(self, request: GenerationRequest, model: str) -> tuple[str, ...]:
        return () if self._is_reasoning(model) else super().stops(request, model)

    def fields(self, draft: Draft) -> dict[str, Any]:
        request, server = draft.request, self.server
        fields = {
            "model": self._deployment or draft.model,
            "messages": self._messages(draft),
            "stream": True,
            "stream_options": self._stream_options(draft.without),
            "stop": list(draft.stop) or None,
            self._limit_field(draft.without): request.max_tokens,
            **self._samplers(draft),
            **_tools(request),
            **_response_format(draft, server),
        }
        if request.template_kwargs and server.takes_template_kwargs:
            fields["chat_template_kwargs"] = request.template_kwargs
        if draft.prefilled and server.prefill == "flags":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        return fields

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return OpenAIDecoder(self.provider, sent, echoes=self.server.echoes)

    def _is_reasoning(self, model: str) -> bool:
        return self.server.has_reasoning_models and bool(_REASONING_MODEL.match(model))

    def _limit_field(self, without: frozenset[str]) -> str:
        field = self._max_tokens_field
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

    def _messages(self, draft: Draft) -> list[dict[str, Any]]:
        messages = [_message(message, self.server) for message in draft.request.messages]
        if draft.prefilled and self.server.prefill == "prefix":
            messages[-1]["prefix"] = True
        return messages

    def _samplers(self, draft: Draft) -> dict[str, Any]:
        if self._is_reasoning(draft.model):
            return {}
        extra = self.server.samplers
        ours = draft.chosen(*(name for name, _ in extra))
        usual = draft.chosen("temperature", "top_p", "presence_penalty", "frequency_penalty")
        return usual | {theirs: ours[name] for name, theirs in extra if name in ours}


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
    functions = (
        tool_fields(tool, **({"parameters": tool.parameters} if tool.parameters else {}))
        for tool in request.tools
    )
    fields: dict[str, Any] = {"tools": [{"type": "function", "function": f} for f in functions]}
    if choice != "auto":
        fields["tool_choice"] = choice
    if not request.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _response_format(draft: Draft, server: Server) -> dict[str, Any]:
    match draft.request.response_format:
        case None:
            return {}
        case JsonObject():
            return {"response_format": {"type": "json_object"}}
        case JsonSchema(name=name, schema=schema, strict=strict):
            json_schema = {"name": name, "schema": schema, "strict": strict}
            return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
        case Regex(pattern=pattern):
            return _in_field(server.regex_field, pattern, "a regular expression", draft)
        case Lark(grammar=grammar):
            return _in_field(server.lark_field, grammar, "a Lark grammar", draft)
        case Gbnf(grammar=grammar):
            return _in_field(server.gbnf_field, grammar, "a GBNF grammar", draft)


def _in_field(field: str | None, value: str, what: str, draft: Draft) -> dict[str, Any]:
    if field is None:
        raise ResponseFormatRefused(f"{draft.provider} cannot hold an answer to {what}")
    outer, _, inner = field.partition(".")
    return {outer: {inner: value} if inner else value}
