"""Tools of OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.openai.responses.items import Item
from spillover.edge_server.wire.openai.tools import (
    AllowedBody,
    ChoiceBody,
    FunctionBody,
    ReferenceBody,
    ToolBody,
    tool_fields,
)
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.structured_output.limits import check_schema


class FunctionTool(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function, or something that only OpenAI's servers can run."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseTool(FunctionTool, frozen=True, kw_only=True, omit_defaults=True):
    """The same, or a namespace of functions."""

    tools: tuple[FunctionTool, ...] = ()


class ResponseChoice(ReferenceBody, frozen=True, kw_only=True):
    mode: str = "auto"
    tools: tuple[ReferenceBody, ...] = ()


class ChosenTools(Struct, frozen=True, kw_only=True):
    """What a request's tools come to."""

    fields: dict[str, Any]
    """Of a GenerationRequest."""
    namespaces: dict[str, str]
    """Of functions that stood in one."""


def tools_in(items: Iterable[Item]) -> Iterator[ResponseTool]:
    """Tools that came into a conversation by its items, or a 400."""
    for item in items:
        if item.type in ("additional_tools", "tool_search_output"):
            try:
                yield from msgspec.convert(item.tools or (), tuple[ResponseTool, ...])
            except msgspec.ValidationError as error:
                raise bad_request(f"the tools of {item.type}: {error}", "input") from error


def chosen_tools(
    tools: tuple[ResponseTool, ...],
    choice: str | ResponseChoice | None,
    parallel: bool | None,
) -> ChosenTools:
    """The functions that a client can run, or a 400. Other tools are left out, and so is a choice
    of one of them."""
    functions: list[ToolBody] = []
    namespaces: dict[str, str] = {}
    for i, tool in enumerate(tools):
        for each in (tool, *tool.tools):
            if each.type != "function":  # left out, but repeated in the answer
                check_schema(each.parameters or {}, partial(InvalidRequest, param=f"tools[{i}]"))
        if tool.type == "namespace":
            inner = [t for t in tool.tools if t.type == "function"]
            functions += [_function(t, f"tools[{i}].tools") for t in inner]
            namespaces |= {t.name or "": tool.name or "" for t in inner}
        elif tool.type == "function":
            functions.append(_function(tool, f"tools[{i}]"))
    fields = tool_fields(tuple(functions), _choice(choice, functions), parallel)
    return ChosenTools(fields=fields, namespaces=namespaces)


def _function(tool: FunctionTool, param: str) -> ToolBody:
    if tool.name is None:
        raise bad_request(f"{param}.name is missing", f"{param}.name")
    return ToolBody(
        function=FunctionBody(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters,
            strict=tool.strict,
        )
    )


def _choice(
    choice: str | ResponseChoice | None, functions: list[ToolBody]
) -> str | ChoiceBody | None:
    names = {tool.function.name for tool in functions if tool.function}
    if isinstance(choice, str):
        return None if choice == "required" and not names else choice
    if choice is None or choice.type not in ("function", "allowed_tools"):
        return None
    if choice.type == "function":
        return ChoiceBody(name=choice.name_in("tool_choice"))
    allowed = tuple(tool for tool in choice.tools if tool.type == "function")
    body = AllowedBody(mode=choice.mode, tools=allowed)
    return ChoiceBody(type="allowed_tools", allowed_tools=body)
