"""What a request's tools mean for its prompt, its parser and its grammar."""

from __future__ import annotations

import re

from msgspec import Struct

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest, NamedTool, Tool
from spillover.runtime.tools.formats import ToolFormat
from spillover.runtime.tools.parser import ToolParser

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


class ToolPlan(Struct, frozen=True, kw_only=True):
    """The tools that may be called in an answer, and how."""

    format: ToolFormat
    tools: tuple[Tool, ...]
    must_call: bool
    several: bool
    """More than one call may stand in an answer."""
    is_held: bool
    """A grammar holds the calls to their form."""

    def parser(self) -> ToolParser:
        names = frozenset(tool.name for tool in self.tools)
        return ToolParser(self.format, names, streams=self.is_held, only_calls=self.must_call)


def plan_tools(request: GenerationRequest, format: ToolFormat) -> ToolPlan | None:
    """None: nothing may be called. Raises InvalidRequest for tools and choices that do not fit."""
    _check_names(request.tools)
    choice, tools = request.tool_choice, request.tools
    if isinstance(choice, NamedTool):
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        if not tools:
            raise InvalidRequest(
                f"tool_choice: there is no tool named {choice.name!r}", "tool_choice"
            )
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice: no tools are given of which one must be called", "tools")
    if not tools or choice == "none" or not request.messages:
        return None
    must_call = choice != "auto"
    return ToolPlan(
        format=format,
        tools=tools,
        must_call=must_call,
        several=request.parallel_tool_calls and not isinstance(choice, NamedTool),
        # Nothing tells where a bare call begins, so it cannot be held from there on.
        is_held=must_call or request.response_format is not None or not format.may_be_bare,
    )


def _check_names(tools: tuple[Tool, ...]) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        param = f"tools[{index}].function.name"
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequest(f"{param}: letters, digits and _ . : / - make a name", param)
        if tool.name in names:
            raise InvalidRequest(f"{param}: {tool.name} is there twice", param)
        names.add(tool.name)
