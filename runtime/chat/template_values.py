"""What a chat template is given: messages, calls and tools in OpenAI's shape, always the same."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from msgspec import Struct

from spillover.runtime.request import Message, ToolCall
from spillover.runtime.tools.prompts import arguments_of
from spillover.runtime.tools.tool_format import ToolFormat


class Abilities(Struct, frozen=True, kw_only=True):
    """What a template shows of a conversation."""

    knows_developer: bool = False
    """Developer is a role of its own, not OpenAI's later name for the system."""
    tool_format: ToolFormat | None = None
    """How it writes tools and calls; None: not at all, or in a form that no parser knows."""
    shows_calls: bool = True
    """It writes the calls of earlier messages; otherwise they have to be a part of their text."""
    writes_unknown_calls: bool = False
    text_arguments: bool = False
    """It takes the arguments of calls as JSON text, not as objects."""
    reasoning_field: str | None = None
    """The field of an earlier message in which it looks for the reasoning."""


REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Names of that field: DeepSeek's and Qwen's; vLLM's and OpenRouter's; gpt-oss's; Apriel's."""


def default_values() -> dict[str, Any]:
    """What llama.cpp's server gives to every template, unless the request says otherwise."""
    return {"enable_thinking": True, "date_string": datetime.now().strftime("%d %b %Y")}


def message_object(message: Message, abilities: Abilities) -> dict[str, Any]:
    is_system = message.role == "developer" and not abilities.knows_developer
    fields: dict[str, Any] = {
        "role": "system" if is_system else message.role,
        "content": message.content,
    }
    if message.name is not None:
        fields["name"] = message.name
    if message.reasoning and abilities.reasoning_field is not None:
        fields[abilities.reasoning_field] = message.reasoning
    if message.tool_calls:
        as_text = abilities.text_arguments
        fields["tool_calls"] = [call_object(call, as_text=as_text) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def call_object(call: ToolCall, *, as_text: bool = False) -> dict[str, Any]:
    """A call whose arguments are an object, or one object's JSON text."""
    arguments: Any = arguments_of(call)
    if as_text:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
