"""Cohere's chat, version 2.

An answer is complete with message-end, unless that tells of a failure; "[DONE]" may follow.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from spillover.cloud_fallback.errors import Overloaded
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.classify import unknown_reason
from spillover.cloud_fallback.providers.dialects.decoding import Count
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Dialect, Part, Reasons
from spillover.cloud_fallback.providers.dialects.encoding import (
    Draft,
    Fields,
    HttpRequest,
    function_call,
    parameters_of,
)
from spillover.cloud_fallback.providers.dialects.images import chat_content, with_tool_images_apart
from spillover.runtime.request import JsonSchema, Message, NamedTool

_LIMITS = {
    "temperature": ("temperature", 0.0, 1.0),
    "top_p": ("p", 0.01, 0.99),
    "top_k": ("k", 0, 500),
    "frequency_penalty": ("frequency_penalty", 0.0, 1.0),
    "presence_penalty": ("presence_penalty", 0.0, 1.0),
}
"""Our samplers as (its name, its least value, its greatest value)."""


class CohereDialect(Dialect):
    """See Dialect."""

    can_prefill = False
    max_stops = 5
    json_object: ClassVar[Fields | None] = {"response_format": {"type": "json_object"}}

    def path(self, model: str) -> str:
        return f"{self.root}/chat"

    def fields(self, draft: Draft) -> Fields:
        request = draft.request
        return {
            "model": draft.model,
            "messages": [_message(m) for m in with_tool_images_apart(request.messages)],
            "stream": True,
            "max_tokens": request.max_tokens,
            "stop_sequences": list(draft.stop) or None,
            **_samplers(draft),
            **_tools(draft),
            **self.response_format(draft),
        }

    def json_schema(self, json: JsonSchema) -> Fields:
        return {"response_format": {"type": "json_object", "json_schema": json.schema}}

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return CohereDecoder(self.provider, sent)


def _message(message: Message) -> Fields:
    role = "system" if message.role == "developer" else message.role
    fields: Fields = {"role": role}
    if message.content or not message.tool_calls:
        fields["content"] = chat_content(message)
    if message.tool_calls:
        fields["tool_calls"] = [function_call(call, call.id) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _samplers(draft: Draft) -> Fields:
    fields = draft.chosen("seed")
    for name, value in draft.chosen(*_LIMITS).items():
        theirs, least, greatest = _LIMITS[name]
        fields[theirs] = min(max(value, least), greatest)
    return fields


def _tools(draft: Draft) -> Fields:
    choice, tools = draft.request.tool_choice, draft.request.tools
    if not tools:
        return {}
    draft.check_parallel()
    if isinstance(choice, NamedTool):  # it can only be told to call any of those it knows
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        choice = "required"
    functions = (
        {"name": t.name, "description": t.description, "parameters": parameters_of(t)}
        for t in tools
    )
    fields: Fields = {"tools": [{"type": "function", "function": f} for f in functions]}
    if choice != "auto":
        fields["tool_choice"] = choice.upper()
    if any(tool.strict for tool in tools):
        fields["strict_tools"] = True
    return fields


# The answer.

_KINDS = frozenset(
    (
        "message-start",
        "content-start",
        "content-delta",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
        "message-end",
    )
)
_Amount = Annotated[float, Meta(ge=0, le=2**53)]


class _Content(Struct):
    text: str | None = None
    thinking: str | None = None


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(Struct):
    content: _Content | tuple[_Content, ...] | None = None
    """An empty list in message-start, an object later."""
    tool_calls: _ToolCall | tuple[_ToolCall, ...] | None = None
    tool_plan: str | None = None


class _Tokens(Struct):
    input_tokens: _Amount | None = None
    output_tokens: _Amount | None = None


class _Usage(Struct):
    tokens: _Tokens | None = None
    billed_units: _Tokens | None = None
    cached_tokens: _Amount | None = None


class _Delta(Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Event(Struct):
    id: str | None = None
    index: Count = 0
    delta: _Delta | None = None


class CohereDecoder(Decoder):
    """Reads one streamed chat answer."""

    reasons: ClassVar[Reasons] = {
        "COMPLETE": "stop",
        "STOP_SEQUENCE": "stop",
        "MAX_TOKENS": "length",
        "TOOL_CALL": "tool_calls",
        "ERROR_TOXIC": "content_filter",
    }

    def read(self, frame: Frame) -> list[Part]:
        kind = self.kind(frame)
        if kind in ("", "error"):
            self._check(self.json(frame, object), is_error=kind == "error")
        if kind not in _KINDS:
            return []
        event = self.json(frame, _Event)
        delta = event.delta or _Delta()
        message = delta.message or _Message()
        match kind:
            case "message-start":
                self.calls.name_answer(event.id)
            case "tool-call-start" | "tool-call-delta":
                return self._call(event.index, message, begins=kind == "tool-call-start")
            case "message-end":
                return self._finish(delta)
            case "tool-plan-delta":
                return self.text("", message.tool_plan)
            case _ if isinstance(message.content, _Content):
                return self.text(message.content.text, message.content.thinking)
        return []

    def _check(self, value: object, *, is_error: bool) -> None:
        """Raises the error that an event without a type may hold."""
        if is_error or (isinstance(value, dict) and ("message" in value or "error" in value)):
            raise self.error(value)

    def _call(self, index: int, message: _Message, *, begins: bool) -> list[Part]:
        call = message.tool_calls if isinstance(message.tool_calls, _ToolCall) else _ToolCall()
        function = call.function or _Function()
        if not begins:
            return [*self.calls.add(index, function.arguments)]
        arguments = function.arguments or ""
        return [self.calls.open(index, id=call.id, name=function.name, arguments=arguments)]

    def _finish(self, delta: _Delta) -> list[Part]:
        reason = delta.finish_reason or ""
        if reason in ("ERROR", "TIMEOUT"):
            raise Overloaded(self.provider, f"the answer ended with {reason}")
        if reason not in self.reasons:
            raise unknown_reason(self.provider)
        self.is_done = True
        usage = delta.usage or _Usage()
        # Not all tokens are billed: not those that Cohere adds to a prompt itself.
        tokens = usage.billed_units or usage.tokens or _Tokens()
        self.count(tokens.input_tokens, tokens.output_tokens, usage.cached_tokens)
        return self.finish(reason)
