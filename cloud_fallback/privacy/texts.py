"""Every text of a request that a provider would see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec.structs import replace

from spillover.cloud_fallback.errors import RedactionFailed
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
    ToolCall,
)

Change: TypeAlias = Callable[[str], str]

_STRUCTURAL_KEYS = frozenset({"type", "$ref", "$schema", "$id", "format"})


class Texts:
    """Walks a request. *change* replaces each text. *check* gets the names that cannot be changed
    without breaking the request: those of tools and calls, and grammars."""

    def __init__(self, change: Change, check: Callable[[str], None]) -> None:
        self._change = change
        self._check = check

    def request(self, request: GenerationRequest) -> GenerationRequest:
        prompt = request.prompt
        if isinstance(prompt, tuple):
            raise RedactionFailed("a prompt of token ids cannot be redacted: send its text")
        if isinstance(request.tool_choice, NamedTool):
            self._check(request.tool_choice.name)
        return replace(
            request,
            messages=tuple(map(self._message, request.messages)),
            prompt=prompt and self._change(prompt),
            begun=self._change(request.begun),
            stop=tuple(map(self._change, request.stop)),
            template_kwargs=self._values(request.template_kwargs),
            response_format=self._response_format(request.response_format),
            tools=tuple(map(self._tool, request.tools)),
        )

    def _message(self, message: Message) -> Message:
        if message.tool_call_id is not None:
            self._check(message.tool_call_id)
        return replace(
            message,
            content=self._change(message.content),
            name=message.name and self._change(message.name),
            tool_calls=tuple(map(self._call, message.tool_calls)),
        )

    def _call(self, call: ToolCall) -> ToolCall:
        self._check(call.id)
        self._check(call.name)
        return replace(call, arguments=self._arguments(call.arguments))

    def _arguments(self, arguments: str) -> str:
        """JSON with its values changed, also numbers, which become strings; the same text if
        nothing is changed."""
        try:
            value = json.loads(arguments)
        except ValueError:
            return self._change(arguments)
        changed = self._values(value)
        return arguments if changed == value else json.dumps(changed, ensure_ascii=False)

    def _tool(self, tool: Tool) -> Tool:
        self._check(tool.name)
        return replace(
            tool,
            description=self._change(tool.description),
            parameters=self._schema(tool.parameters),
        )

    def _response_format(self, response_format: ResponseFormat | None) -> ResponseFormat | None:
        match response_format:
            case None | JsonObject():
                pass
            case JsonSchema():
                self._check(response_format.name)
                return replace(response_format, schema=self._schema(response_format.schema))
            case Regex():
                self._check(response_format.pattern)
            case Lark() | Gbnf():
                self._check(response_format.grammar)
        return response_format

    def _schema(self, value: Any) -> Any:
        """A JSON schema: names of properties and the schema's keywords stay as they are."""
        if isinstance(value, str):
            return self._change(value)
        if isinstance(value, list | tuple):
            return [self._schema(one) for one in value]
        if not isinstance(value, dict):
            return value
        changed = {}
        for key, one in value.items():
            self._check(str(key))
            if key in _STRUCTURAL_KEYS and isinstance(one, str):
                self._check(one)
                changed[key] = one
            else:
                changed[key] = self._schema(one)
        return changed

    def _values(self, value: Any) -> Any:
        """Any JSON: keys and numbers count as texts."""
        if isinstance(value, str):
            return self._change(value)
        if isinstance(value, dict):
            return {self._change(key): self._values(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._values(one) for one in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            changed = self._change(text := json.dumps(value))
            return value if changed == text else changed
        return value
