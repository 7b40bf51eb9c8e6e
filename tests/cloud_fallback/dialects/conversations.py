"""Requests to put into words."""

from __future__ import annotations

from typing import Any

import msgspec

from spillover.cloud_fallback.providers.build import dialect_of
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.dialects.encoding import HttpRequest
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.request import GenerationRequest, Message, Tool, ToolCall

HELLO = (Message(role="user", content="Hello"),)
PARTIAL = (*HELLO, Message(role="assistant", content="Good day to \n"))
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool(name="weather", description="Tells the weather.", parameters=CITY)
CLOCK = Tool(name="clock")
WITH_TOOLS = (
    Message(role="developer", content="Be brief."),
    Message(role="user", content="Is it warm in Rome?"),
    Message(
        role="assistant",
        content="",
        tool_calls=(
            ToolCall(id="call_1", name="weather", arguments='{"city": "Rome"}'),
            ToolCall(id="call.2/b", name="clock", arguments=""),
        ),
    ),
    Message(role="tool", content='{"celsius": 31}', tool_call_id="call_1"),
    Message(role="tool", content="noon", tool_call_id="call.2/b"),
    Message(role="user", content="And in Oslo?"),
)

MODELS = {
    "openai": "gpt-4o",
    "azure": "gpt-4o",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "cohere": "command-a-03-2025",
    "huggingface": "tgi",
    "tgi": "tgi",
    "bedrock": "anthropic.claude-sonnet-4-5-20250929-v1:0",
}


_ADDRESSES = {
    "azure": "https://mine.openai.azure.com",
    "huggingface": "https://x.y",
    "tgi": "https://tgi.example",
}


def dialect_for(dialect: str, **fields: Any) -> Dialect:
    """The dialect of a provider with these *fields*, which is called like its dialect."""
    defaults = {"name": dialect, "model": "m", "base_url": _ADDRESSES.get(dialect, "")}
    return dialect_of(ProviderSettings(dialect=dialect, **defaults | fields))


def ask(messages: tuple[Message, ...] = HELLO, **fields: Any) -> GenerationRequest:
    return GenerationRequest(messages=messages, **fields)


def encoded(
    name: str,
    request: GenerationRequest,
    *,
    model: str | None = None,
    prefill: bool = False,
    without: frozenset[str] = frozenset(),
    **options: Any,
) -> HttpRequest:
    dialect = dialect_for(name, **options)
    model = MODELS.get(name, "m") if model is None else model
    return dialect.encode(request, model, prefill=prefill, without=without)


def body_of(name: str, request: GenerationRequest, **options: Any) -> dict[str, Any]:
    """The body that *request* becomes, as plain values."""
    return msgspec.json.decode(encoded(name, request, **options).body, type=dict[str, Any])
