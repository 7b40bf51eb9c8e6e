"""Tools and tool calls in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.events import ToolCallDelta
from spillover.runtime.request import ToolCall
from spillover.runtime.text.surrogates import valid_text


class FunctionBody(Struct, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Struct, frozen=True, kw_only=True):
    type: str | None = None
    function: FunctionBody | None = None


class NameBody(Struct, frozen=True, kw_only=True):
    name: str


class ReferenceBody(Struct, frozen=True, kw_only=True):
    """A tool by its name, as OpenAI's chat completions or its Responses write it."""

    type: str = "function"
    function: NameBody | None = None
    name: str | None = None

    def name_in(self, param: str) -> str:
        """The tool's name, or a 400 that names *param*."""
        name = self.name if self.function is None else self.function.name
        if self.type != "function" or name is None:
            raise bad_request(f"{param}.function.name is missing", param)
        return name


class AllowedBody(Struct, frozen=True, kw_only=True):
    mode: str = "auto"
    tools: tuple[ReferenceBody, ...] = ()


class ChoiceBody(ReferenceBody, frozen=True, kw_only=True):
    allowed_tools: AllowedBody | None = None


class CalledBody(Struct, frozen=True, kw_only=True):
    name: str
    arguments: Any = None
    input: Any = None
    """Of a custom tool, instead of arguments."""


class CallBody(Struct, frozen=True, kw_only=True):
    id: str | None = None
    type: str | None = None
    function: CalledBody | None = None
    custom: CalledBody | None = None

    def called(self, param: str) -> CalledBody:
        """What is called, or a 400 that names *param*."""
        if self.function is not None:
            return self.function
        if self.custom is None:
            raise bad_request(f"{param}.function is missing", f"{param}.function")
        return CalledBody(name=self.custom.name, arguments={"input": self.custom.input or ""})


def tool_fields(
    tools: tuple[ToolBody, ...] | None, choice: str | ChoiceBody | None, parallel: bool | None
) -> dict[str, Any]:
    """Fields of a GenerationRequest, or a 400 that names the field."""
    fields: dict[str, Any] = {"tools": tuple(_tool(t, i) for i, t in enumerate(tools or ()))}
    if isinstance(choice, ChoiceBody) and choice.type == "allowed_tools":
        fields |= _allowed(choice.allowed_tools or AllowedBody(), fields["tools"])
    elif isinstance(choice, ChoiceBody):
        fields["tool_choice"] = {"name": choice.name_in("tool_choice")}
    elif choice is not None:
        if choice not in ("auto", "none", "required"):
            message = "tool_choice must be auto, none, required, a function or allowed_tools"
            raise bad_request(message, "tool_choice")
        fields["tool_choice"] = choice
    if parallel is not None:
        fields["parallel_tool_calls"] = parallel
    return fields


def _allowed(allowed: AllowedBody, tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The tools that may be called: the others are left out, so that none can be."""
    param = "tool_choice.allowed_tools"
    if allowed.mode not in ("auto", "required"):
        raise bad_request(f"{param}.mode must be auto or required", f"{param}.mode")
    names = {tool.name_in(f"{param}.tools[{i}]") for i, tool in enumerate(allowed.tools)}
    if unknown := names - {tool["name"] for tool in tools}:
        message = f"{param} names {min(unknown)!r}, which is not one of the tools"
        raise bad_request(message, f"{param}.tools")
    return {
        "tools": tuple(tool for tool in tools if tool["name"] in names),
        "tool_choice": allowed.mode,
    }


def function_fields(
    functions: tuple[FunctionBody, ...], choice: str | NameBody | None
) -> dict[str, Any]:
    """The same for OpenAI's functions, which preceded tools: one call at most."""
    tools = tuple(ToolBody(function=function) for function in functions)
    if isinstance(choice, NameBody):
        if choice.name not in {function.name for function in functions}:
            message = f"function_call names {choice.name!r}, which is not one of the functions"
            raise bad_request(message, "function_call")
        return tool_fields(tools, ChoiceBody(name=choice.name), False)
    if choice not in (None, "auto", "none"):
        raise bad_request("function_call must be auto, none or a function", "function_call")
    return tool_fields(tools, choice, False)


def _tool(tool: ToolBody, index: int) -> dict[str, Any]:
    is_function = tool.type in (None, "function")
    if not is_function or tool.function is None:
        param = f"tools[{index}].function" if is_function else f"tools[{index}].type"
        raise bad_request(f"{param} must be a function", param)
    function = tool.function
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": function.parameters or {},
        "strict": bool(function.strict),
    }


def calls_of(calls: tuple[CallBody, ...], index: int) -> tuple[dict[str, Any], ...]:
    """The calls of the earlier message *index*; those without an id get one."""
    called = [call.called(f"messages[{index}].tool_calls[{i}]") for i, call in enumerate(calls)]
    return tuple(
        {
            "id": call.id or f"call_{index}_{place}",
            "name": each.name,
            "arguments": arguments_text(each.arguments),
        }
        for place, (call, each) in enumerate(zip(calls, called, strict=True))
    )


def arguments_text(given: Any) -> str:
    """OpenAI's API says a JSON text; clients of Ollama send the object."""
    if isinstance(given, str | None):
        return given or "{}"
    return msgspec.json.encode(given).decode()


def call_delta(event: ToolCallDelta) -> dict[str, Any]:
    """A part of a call in a chunk of a stream."""
    function: dict[str, Any] = {"arguments": valid_text(event.arguments)}
    if event.id is None:
        return {"index": event.index, "function": function}
    function = {"name": event.name, **function}
    return {"index": event.index, "id": event.id, "type": "function", "function": function}


def call_objects(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """The calls of a whole answer."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": valid_text(call.arguments)},
        }
        for call in calls
    ]
