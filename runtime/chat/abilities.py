"""Finds out what a chat template can show, by rendering small conversations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, TypeAlias

import msgspec

from spillover.runtime.chat.template_values import (
    REASONING_FIELDS,
    Abilities,
    call_object,
    message_object,
)
from spillover.runtime.request import Message, Tool, ToolCall
from spillover.runtime.text.template_tags import REASONING_TAGS, TURN_ENDS, TagPair
from spillover.runtime.tools.formats import FORMATS
from spillover.runtime.tools.hints import told_by_words
from spillover.runtime.tools.parser import CallDelta, ToolParser
from spillover.runtime.tools.prompts import tool_object
from spillover.runtime.tools.tool_format import ToolFormat

Render: TypeAlias = Callable[[dict[str, Any]], str | None]
"""The prompt from a template's variables; None if the template refuses or fails."""

_TEXT = "Mqpa1Zx"
_OTHER = "Mqpa2Zx"
_ROLE = "qpazx"
_TOOL = Tool(
    name="mqpa3zx",
    description="Mqpa4Zx",
    parameters={"type": "object", "properties": {"mqpa5zx": {"type": "string"}}},
)
_CALL = ToolCall(id="a1B2c3D4e", name=_TOOL.name, arguments=f'{{"mqpa5zx": "{_TEXT}"}}')
_THINKING_SWITCHES: tuple[dict[str, bool], ...] = (
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
)
_NO_ABILITIES = Abilities()


def probe(render: Render) -> Abilities:
    """The abilities of the template that *render* uses."""
    knows_developer = _knows_developer(render)
    tool_format, text_arguments, shows_calls = None, False, True
    with_tools = _with_tools(render)
    if with_tools is not None:
        for as_text in (False, True):
            tool_format = _call_format(render, as_text=as_text)
            if tool_format is not None:
                text_arguments = as_text
                break
        if tool_format is None:
            tool_format, shows_calls = told_by_words(with_tools), False
    return Abilities(
        knows_developer=knows_developer,
        tool_format=tool_format,
        shows_calls=shows_calls,
        writes_unknown_calls=with_tools is not None and tool_format is None,
        text_arguments=text_arguments,
        reasoning_field=_reasoning_field(render, as_text=text_arguments),
    )


def shown_tags(render: Render, source: str) -> tuple[TagPair, ...]:
    """The pairs of tags that enclose the model's reasoning: the template opens or shows them, or
    takes what stands between them out of earlier answers."""
    return tuple(
        pair
        for pair in REASONING_TAGS
        if pair.close in source
        and (pair.close not in TURN_ENDS or pair.open in source)
        and ((_is_control(pair.open) and pair.open in source) or _treats_tags(render, pair))
    )


def _is_control(tag: str) -> bool:
    """Whether *tag* is no word that a template may mention."""
    return tag.startswith("<|") and tag.endswith("|>")


def _treats_tags(render: Render, pair: TagPair) -> bool:
    text = f"{pair.open}\n{_TEXT}\n{pair.close}\n\n{_OTHER}"
    turns = [_object("user", "a"), _object("assistant", text), _object("user", "b")]
    last = [_object("assistant", "c"), _object("user", "d")]
    prompt = render(_values([*turns, *last], opens=True))
    if prompt is None:
        return True  # nothing says that it does not
    said = f"{pair.open}\n{_TEXT}\n{pair.close}"
    # It takes the reasoning out or puts it elsewhere, or writes tags of its own.
    shows = said not in prompt or pair.close in prompt.replace(said, "")
    for extra, tools in product(_THINKING_SWITCHES, (False, True)):
        prompt = render({**extra, **_values([_object("user", "a")], tools=tools, opens=True)})
        shows = shows or (prompt is not None and (pair.open in prompt or pair.close in prompt))
    for field in REASONING_FIELDS:
        turns = [_object("user", "a"), {**_object("assistant", _OTHER), field: _TEXT}]
        prompt = render(_values(turns))
        shows = shows or (prompt is not None and pair.close in prompt and _TEXT in prompt)
    return shows


def _knows_developer(render: Render) -> bool:
    """Whether the role is more than any word that the template would print."""

    def prompt(role: str) -> str | None:
        turns = [_object("user", "a"), _object("assistant", "b"), _object("user", "c")]
        return render(_values([{"role": role, "content": _TEXT}, *turns]))

    shown, any_role = prompt("developer"), prompt(_ROLE)
    if shown is None or _TEXT not in shown:
        return False
    return any_role is None or any_role.replace(_ROLE, "developer") != shown


def _with_tools(render: Render) -> str | None:
    """A prompt that shows a tool."""
    prompt = render(_values([_object("user", "a")], tools=True, opens=True))
    shows = prompt is not None and (_TOOL.name in prompt or _TOOL.description in prompt)
    return prompt if shows else None


def _call_format(render: Render, *, as_text: bool) -> ToolFormat | None:
    """The format whose parser reads what the template writes of a call."""
    turns = [_object("user", "a")]
    call = {**_object("assistant", ""), "tool_calls": [call_object(_CALL, as_text=as_text)]}
    result = {**_object("tool", "b"), "tool_call_id": _CALL.id, "name": _CALL.name}
    called = render(_values([*turns, call, result], tools=True))
    said = render(_values([*turns, _object("assistant", _TEXT)], tools=True))
    if called is None or said is None:
        return None
    answer = called[_n_same(called, said[: said.find(_TEXT)]) :]
    return next((f for f in FORMATS if _reads(f, answer if f.may_be_bare else called)), None)


def _reads(format: ToolFormat, text: str) -> bool:
    parser = ToolParser(format, {_TOOL.name: _TOOL.parameters}, streams=False)
    pieces = (*parser.feed(text), *parser.flush())
    calls = [piece for piece in pieces if isinstance(piece, CallDelta)]
    return len(calls) == 1 and msgspec.json.decode(calls[0].arguments) == {"mqpa5zx": _TEXT}


def _n_same(first: str, second: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _reasoning_field(render: Render, *, as_text: bool) -> str | None:
    """Many templates show the reasoning of the answer in progress alone."""
    for field in REASONING_FIELDS:
        call = {"tool_calls": [call_object(_CALL, as_text=as_text)]}
        result = {**_object("tool", "b"), "tool_call_id": _CALL.id, "name": _CALL.name}
        for rest in ([{**_object("assistant", ""), **call}, result], [_object("assistant", "b")]):
            turn = {**rest[0], field: _TEXT.replace("1", "6")}
            values = _values([_object("user", "a"), turn, *rest[1:]], opens=len(rest) > 1)
            prompt = render({"enable_thinking": True, "thinking": True, **values})
            if prompt is not None and turn[field] in prompt:
                return field
    return None


def _object(role: Any, content: str) -> dict[str, Any]:
    return message_object(Message(role=role, content=content), _NO_ABILITIES)


def _values(
    messages: list[dict[str, Any]], *, tools: bool = False, opens: bool = False
) -> dict[str, Any]:
    values: dict[str, Any] = {"messages": messages, "add_generation_prompt": opens}
    return {**values, "tools": [tool_object(_TOOL)]} if tools else values
