"""Grammars for tool calls: names that exist, arguments that follow their
schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.request import JsonObject, JsonSchema, Tool
from spillover.runtime.structured_output.argument_grammar import (
    ArgumentRules,
    Spell,
    json_rule,
    marked,
)
from spillover.runtime.structured_output.grammar import clean_schema
from spillover.runtime.structured_output.subschemas import Schema
from spillover.runtime.tools.tool_format import ToolFormat

tools_refused = partial(InvalidRequest, param="tools")


def calls_grammar(
    format: ToolFormat, tools: tuple[Tool, ...], spell: Spell, *, several: bool, after_opening: bool
) -> str:
    """One call, or *several*; *after_opening*: of a call whose opening has been written."""
    return "start: calls\n" + _rules(
        format, tools, spell, several=several, after_opening=after_opening
    )


def calls_or_answer_grammar(
    format: ToolFormat,
    tools: tuple[Tool, ...],
    spell: Spell,
    response_format: JsonObject | JsonSchema,
    *,
    several: bool,
) -> str:
    """Calls, or an answer that follows *response_format*."""
    schema = (
        response_format.schema if isinstance(response_format, JsonSchema) else {"type": "object"}
    )
    answer = json_rule(clean_schema(schema, ResponseFormatRefused))
    rules = _rules(format, tools, spell, several=several, after_opening=False)
    return f"start: calls | answer\nanswer: {answer}\n{rules}"


def _rules(
    format: ToolFormat, tools: tuple[Tool, ...], spell: Spell, *, several: bool, after_opening: bool
) -> str:
    is_object = format.encoding == "object"
    call = _object_call(format, tools) if is_object else _named_call(format, tools, spell)
    opening = "" if after_opening or format.may_be_bare else spell(format.opening)
    if opening:
        opening = " ".join((*(f"({spell(lead)})?" for lead in format.leads), opening))
    closing = marked(format.closing, spell) if format.closing else ""
    if format.is_list:
        more = ' (", " call)*' if several else ""
        return f'calls: {opening} "[" call{more} "]" {closing}\n{call}'
    if format.is_sequence:
        more = ' ("\\n"? call)*' if several else ""
        return f'calls: {opening} "\\n"? call{more} {closing}\n{call}'
    body = f'"\\n"? call "\\n"? {closing}' if format.closing and is_object else f"call {closing}"
    if after_opening or not (several and format.repeats):
        return f"calls: {opening} {body}\n{call}"
    gap = '"\\n"?' if format.closing or format.call_closing else ""
    return f"calls: one ({gap} one)*\none: {opening} {body}\n{call}"


def _object_call(format: ToolFormat, tools: tuple[Tool, ...]) -> str:
    numbered = {format.id_member: {"type": "string", "pattern": "^[0-9]{1,3}$"}}
    if not format.id_member:
        numbered = {}
    shapes = [
        {
            "type": "object",
            "properties": {
                **numbered,
                format.name_member: {"const": tool.name},
                # With an id its references start at itself, as they did where it came from.
                format.arguments: {"$id": "arguments", **_arguments(tool)},
            },
            "required": [*numbered, format.name_member, format.arguments],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    rules = [f"call{i}: {json_rule(shape)}" for i, shape in enumerate(shapes)]
    return "\n".join([f"call: {_any('call', tools)}", *rules])


def _named_call(format: ToolFormat, tools: tuple[Tool, ...], spell: Spell) -> str:
    opening, link = marked(format.call_opening, spell), marked(format.separator, spell)
    closing = marked(format.call_closing, spell)
    rules = []
    for index, tool in enumerate(tools):
        if format.encoding == "json":
            arguments = json_rule(_arguments(tool))
        else:
            written = ArgumentRules(format, _arguments(tool), spell, f"call{index}")
            arguments = written.start()
            rules += written.rules
        name = json.dumps(tool.name)
        if format.name_opening:
            name = f"/{format.call_id}/ {spell(format.name_opening)} {name}"
        head = f"{opening} {name} {_gap(format, spell)} {link}"
        rules.append(f"call{index}: {head} {arguments} {closing}")
    return "\n".join([f"call: {_any('call', tools)}", *rules])


def _gap(format: ToolFormat, spell: Spell) -> str:
    """What stands between a name and the separator."""
    if format.gap_parts:
        return " ".join(f"({spell(part)})?" for part in format.gap_parts)
    if format.id_marker:
        return f"({spell(format.id_marker)} /{format.gap}/)?"
    return f"/{format.gap}/" if format.gap else ""


def _any(name: str, tools: tuple[Tool, ...]) -> str:
    return " | ".join(f"{name}{i}" for i in range(len(tools)))


def _arguments(tool: Tool) -> dict[str, Any]:
    schema = clean_schema(tool.parameters, tools_refused) or {"type": "object", "properties": {}}
    return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}


def checked(
    tools: tuple[Tool, ...],
    fault_of: Callable[[Schema], str],
    freed: Callable[[Schema], Schema],
) -> tuple[Tool, ...]:
    """*tools* with parameters that can be held to. A schema with something in it that grammars
    cannot say is refused for a strict tool; for others those places are free."""
    held = []
    for index, tool in enumerate(tools):
        param = f"tools[{index}].function.parameters"
        schema = clean_schema(tool.parameters, partial(InvalidRequest, param=param))
        fault = fault_of(_arguments(tool)) if schema else ""
        if fault and tool.strict:
            raise InvalidRequest(f"{param}: {fault}", param)
        if fault:
            tool = Tool(name=tool.name, parameters=freed(schema))
            if fault_of(_arguments(tool)):
                tool = Tool(name=tool.name, parameters={"type": "object"})
        held.append(tool)
    return tuple(held)
