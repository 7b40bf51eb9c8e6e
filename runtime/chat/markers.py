"""Whether a prompt shows all of a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable

from msgspec.structs import replace

from spillover.runtime.request import Message, Tool

_SHORT = 4
"""Texts of fewer characters are found by chance."""


def are_shown(prompt: str, texts: Iterable[str], *, beside: str) -> bool:
    """Whether *prompt* holds all *texts* for certain, in order. A text that is short, or a part of
    what the template writes *beside* them, may be there by chance; then the answer is no."""
    at = 0
    for text in map(str.strip, texts):
        if not text:
            continue
        if len(text) < _SHORT or text in beside:
            return False
        at = prompt.find(text, at)
        if at < 0:
            return False
        at += len(text)
    return True


def marked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation of the same shape whose texts are markers."""
    return tuple(
        replace(
            message,
            content=_marker(index) if message.content.strip() else message.content,
            tool_calls=tuple(
                replace(call, arguments=json.dumps({"marker": _marker(index, place)}))
                for place, call in enumerate(message.tool_calls)
            ),
        )
        for index, message in enumerate(messages)
    )


def marked_tools(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The same tools with markers for what is said of them."""
    return tuple(replace(tool, description=_tool_marker(place)) for place, tool in enumerate(tools))


def are_tools_shown(prompt: str, tools: tuple[Tool, ...]) -> bool:
    """Whether *prompt*, made of marked tools, shows all of them."""
    return all(_tool_marker(place) in prompt for place in range(len(tools)))


def lost(prompt: str, messages: tuple[Message, ...]) -> int | None:
    """The first of *messages* that a template left out when *prompt* was made of their marked
    forms."""
    for index, message in enumerate(messages):
        markers = [_marker(index, place) for place in range(len(message.tool_calls))]
        if message.content.strip():
            markers.append(_marker(index))
        if not all(marker in prompt for marker in markers):
            return index
    return None


def _marker(index: int, place: int | None = None) -> str:
    return f"Mq{index}Zx" if place is None else f"Mq{index}Call{place}Zx"


def _tool_marker(place: int) -> str:
    return f"MqTool{place}Zx"
