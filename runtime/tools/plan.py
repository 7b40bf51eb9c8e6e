"""Plans how the tools of a request shape its prompt, parser and grammar."""

from __future__ import annotations

import re

from msgspec import Struct

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest, NamedTool, Tool
from spillover.runtime.tools.parser import ToolParser
from spillover.runtime.tools.tool_format import ToolFormat

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


class ToolPlan(Struct, frozen=True, kw_only=True):
    """The tools that an answer may call, and how."""

    format: ToolFormat
    tools: tuple[Tool, ...]
    must_call: bool
    several: bool
    """An answer may hold more than one call."""
    is_constrained: bool
    """A grammar constrains the calls."""

    def parser(self) -> ToolParser:
        schemas = {tool.name: tool.parameters for tool in self.tools}
        return ToolParser(
            self.format, schemas, streams=self.is_constrained, only_calls=self.must_call
        )


def plan_tools(request: GenerationRequest, format: ToolFormat) -> ToolPlan | None:
    """None: no tool may be called. Raises InvalidRequest for bad names and impossible choices."""
    _check_names(request.tools)
    choice, tools = request.tool_choice, request.tools
    if isinstance(choice, NamedTool):
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        if not tools:
            raise InvalidRequest(
                f"tool_choice names {choice.name!r}, which is not one of the tools", "tool_choice"
            )
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice requires a call, but the request has no tools", "tools")
    if not tools or choice == "none" or not request.messages:
        return None
    must_call = choice != "auto"
    return ToolPlan(
        format=format,
        tools=tools,
        must_call=must_call,
        several=request.parallel_tool_calls and not isinstance(choice, NamedTool),
        # Where a call begins has to be sure, or a grammar would bind what is text.
        is_constrained=must_call
        or request.response_format is not None
        or not (format.may_be_bare or format.may_be_text),
    )


def _check_names(tools: tuple[Tool, ...]) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        param = f"tools[{index}].function.name"
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequest(f"{param}: use 1 to 128 letters, digits and _ . : / - only", param)
        if tool.name in names:
            raise InvalidRequest(f"{param}: another tool is already named {tool.name!r}", param)
        names.add(tool.name)
