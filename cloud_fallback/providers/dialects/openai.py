"""OpenAI's chat completions, as OpenAI, Azure, Hugging Face and many servers speak them.

An answer is complete when a finish_reason has come. Usage and "[DONE]" may follow; they are lost
when the stream breaks off between them, which does no harm.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import quote

from msgspec import Struct

from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.companies import Server
from spillover.cloud_fallback.providers.dialects.classify import unknown_reason
from spillover.cloud_fallback.providers.dialects.decoding import MAX_TOOL_CALLS, Count
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Dialect, Part, Reasons
from spillover.cloud_fallback.providers.dialects.encoding import (
    Draft,
    Fields,
    HttpRequest,
    function_call,
    safe_id,
    tool_fields,
)
from spillover.cloud_fallback.providers.dialects.images import chat_content, with_tool_images_apart
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.request import (
    Gbnf,
    GenerationRequest,
    JsonSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    ResponseFormat,
)

_REASONING_MODEL = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9](?!.*chat)|gpt-\d\d)")


class OpenAIDialect(Dialect):
    """What the servers differ in stands in their records."""

    json_object: ClassVar[Fields | None] = {"response_format": {"type": "json_object"}}

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

    def fields(self, draft: Draft) -> Fields:
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
            **self.response_format(draft),
        }
        if request.template_kwargs and server.takes_template_kwargs:
            fields["chat_template_kwargs"] = request.template_kwargs
        if draft.prefilled and server.prefill == "flags":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        return fields

    def json_schema(self, json: JsonSchema) -> Fields:
        schema = {"name": json.name, "schema": json.schema, "strict": json.strict}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def grammar(self, grammar: ResponseFormat) -> Fields:
        server = self.server
        match grammar:
            case Regex(pattern=text):
                field = server.regex_field
            case Lark(grammar=text):
                field = server.lark_field
            case Gbnf(grammar=text):
                field = server.gbnf_field
            case _:
                field = None
        if field is None:
            return super().grammar(grammar)
        outer, _, inner = field.partition(".")
        return {outer: {inner: text} if inner else text}

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return OpenAIDecoder(self.provider, sent, echoes=self.server.echoes)

    def hides_reasoning(self, model: str) -> bool:
        return self._is_reasoning(model)

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

    def _messages(self, draft: Draft) -> list[Fields]:
        apart = with_tool_images_apart(draft.request.messages)
        messages = [_message(message, self.server) for message in apart]
        if draft.prefilled and self.server.prefill == "prefix":
            messages[-1]["prefix"] = True
        return messages

    def _samplers(self, draft: Draft) -> Fields:
        if self._is_reasoning(draft.model):
            return {}
        usual = draft.chosen("temperature", "top_p", "presence_penalty", "frequency_penalty")
        names = self.server.samplers
        return usual | {names[ours]: value for ours, value in draft.chosen(*names).items()}


def _message(message: Message, server: Server) -> Fields:
    role = "system" if message.role == "developer" else message.role
    fields: Fields = {"role": role, "content": chat_content(message)}
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


def _tools(request: GenerationRequest) -> Fields:
    if not request.tools:
        return {}
    choice: Any = request.tool_choice
    if isinstance(choice, NamedTool):
        choice = {"type": "function", "function": {"name": choice.name}}
    functions = (
        tool_fields(tool, **({"parameters": tool.parameters} if tool.parameters else {}))
        for tool in request.tools
    )
    fields: Fields = {"tools": [{"type": "function", "function": f} for f in functions]}
    if choice != "auto":
        fields["tool_choice"] = choice
    if not request.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


# The answer.

_SIGNS_OF_LIFE = frozenset(("ping", "heartbeat", "keepalive", "keep-alive"))
"""Names of events that some servers send while nothing happens."""


class _Piece(Struct):
    """A part of a content that is a list, as Mistral's reasoning models send it."""

    type: str = ""
    text: str | None = None
    thinking: tuple[_Piece, ...] | str | None = None


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: Count | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | tuple[_Piece, ...] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None


class _Choice(Struct):
    index: Count = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    """The stop string that was found, where vLLM says so."""


class _Details(Struct):
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Usage(Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's name for cached_tokens."""


class _Chunk(Struct):
    id: str | None = None
    object: str | None = None
    model: str | None = None
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    error: Any = None


class OpenAIDecoder(Decoder):
    """Reads the first choice of one streamed chat completion."""

    reasons: ClassVar[Reasons] = {
        "stop": "stop",
        "eos": "stop",
        "eos_token": "stop",
        "stop_sequence": "stop",
        "end_turn": "stop",
        "length": "length",
        "max_tokens": "length",
        "model_length": "length",
        "tool_calls": "tool_calls",
        "tool_use": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
    }

    def __init__(self, provider: str, sent: HttpRequest | None, *, echoes: bool) -> None:
        super().__init__(provider, sent, echoes=echoes)
        self._call_ids: dict[int, str] = {}
        self._stops = sent.stop if sent else ()
        self._refused = False

    def read(self, frame: Frame) -> list[Part]:
        if frame.name in _SIGNS_OF_LIFE:
            return []
        chunk = self.json(frame, _Chunk)
        if chunk.error is not None or chunk.object == "error" or frame.name == "error":
            raise self.error(self.json(frame, object))
        self.name_model(chunk.model)
        self.calls.name_answer(chunk.id)
        if chunk.usage is not None:
            self._count(chunk.usage)
        parts: list[Part] = []
        for choice in chunk.choices or ():
            if choice.index == 0:
                parts += self._choice(choice)
        return parts

    def _count(self, usage: _Usage) -> None:
        prompt = usage.prompt_tokens_details or _Details()
        completion = usage.completion_tokens_details or _Details()
        cached = prompt.cached_tokens or usage.prompt_cache_hit_tokens
        n_written = usage.completion_tokens
        if n_written is not None and usage.prompt_tokens is not None:
            # xAI, and Google's endpoint of this dialect, count the reasoning in the total alone.
            n_written = max(n_written, (usage.total_tokens or 0) - usage.prompt_tokens)
        self.count(usage.prompt_tokens, n_written, cached, completion.reasoning_tokens)

    def _choice(self, choice: _Choice) -> list[Part]:
        parts = self._delta(choice.delta) if choice.delta else []
        if choice.finish_reason:
            if choice.finish_reason not in self.reasons:
                raise unknown_reason(self.provider)
            if choice.stop_reason in self._stops:
                self.stop = choice.stop_reason
            parts += self.finish("content_filter" if self._refused else choice.finish_reason)
        return parts

    def _delta(self, delta: _Delta) -> list[Part]:
        reasoning, text = _texts(delta.content)
        reasoning = delta.reasoning_content or delta.reasoning or reasoning
        if delta.refusal:
            self._refused = True
            text += delta.refusal
        parts = self.text(text, reasoning)
        for call in delta.tool_calls or ():
            parts += self._call(call)
        return parts

    def _call(self, call: _ToolCall) -> list[Part]:
        function = call.function or _Function()
        arguments = function.arguments or ""
        key = self._key(call)
        if key in self.calls:
            return [*self.calls.add(key, arguments)]
        self._call_ids.setdefault(key, call.id or "")
        if not function.name and not arguments and len(self._call_ids) <= MAX_TOOL_CALLS:
            return []  # the name may still come
        call_id = self._call_ids[key]
        return [self.calls.open(key, id=call_id, name=function.name, arguments=arguments)]

    def _key(self, call: _ToolCall) -> int:
        """The number of *call*. Some servers leave the index out, or give every call index 0: a
        new id begins a new call."""
        known = call.index if call.index is not None else max(len(self.calls) - 1, 0)
        if call.id and self._call_ids.get(known, call.id) not in ("", call.id):
            same = [key for key, id in self._call_ids.items() if id == call.id]
            return same[0] if same else max(self._call_ids) + 1
        return known


def _texts(content: str | tuple[_Piece, ...] | None) -> tuple[str, str]:
    """(reasoning, text) of a delta's content."""
    if not isinstance(content, tuple):
        return "", content or ""
    reasoning = "".join(_reasoning(piece) for piece in content if piece.thinking is not None)
    return reasoning, "".join(piece.text or "" for piece in content if piece.thinking is None)


def _reasoning(piece: _Piece) -> str:
    if isinstance(piece.thinking, str):
        return piece.thinking
    return "".join(part.text or "" for part in piece.thinking or ())
