"""Anthropic's messages. An answer is complete with message_stop."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from msgspec import Struct

from spillover.cloud_fallback.errors import Truncated
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.decoding import Count
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Dialect, Part, Reasons
from spillover.cloud_fallback.providers.dialects.encoding import (
    Draft,
    Fields,
    HttpRequest,
    arguments_object,
    parameters_of,
    safe_id,
    tool_fields,
)
from spillover.cloud_fallback.providers.dialects.images import content_of
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.image import Image
from spillover.runtime.request import GenerationRequest, JsonSchema, Message, NamedTool

VERSION = "2023-06-01"
LAST_CLAUDE_WITH_PREFILL = (4, 5)
LAST_CLAUDE_WITH_SAMPLERS = (4, 6)

_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_CLAUDE = re.compile(
    r"claude-(?:(?:opus|sonnet|haiku|instant|v)-?)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?"
)


class AnthropicDialect(Dialect):
    """See Dialect."""

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self.headers = self.headers | {"anthropic-version": VERSION}

    def key_headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key}

    def path(self, model: str) -> str:
        return f"{self.root}/messages"

    def may_prefill(self, model: str) -> bool:
        return claude_continues(model)

    def stops(self, request: GenerationRequest, model: str) -> tuple[str, ...]:
        return visible_stops(request)

    def fields(self, draft: Draft) -> Fields:
        request, model = draft.request, draft.model
        return {
            "model": model,
            "max_tokens": request.max_tokens or claude_max_tokens(model),
            "stream": True,
            "system": draft.system or None,
            "messages": [
                {"role": side, "content": blocks} for side, blocks in draft.turns(_blocks)
            ],
            "stop_sequences": list(draft.stop) or None,
            **(_samplers(draft) if claude_takes_samplers(model) else {}),
            **_tools(request),
            **self.response_format(draft),
        }

    def json_schema(self, json: JsonSchema) -> Fields:
        return {"output_config": {"format": {"type": "json_schema", "schema": json.schema}}}

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return AnthropicDecoder(self.provider, sent)


def visible_stops(request: GenerationRequest) -> tuple[str, ...]:
    """The stop strings that are not only white space: that is refused."""
    return tuple(stop for stop in request.stop if stop.strip())


def _samplers(draft: Draft) -> Fields:
    fields = draft.chosen("temperature", "top_p", "top_k")
    if "temperature" in fields:
        fields["temperature"] = min(fields["temperature"], 1.0)
        fields.pop("top_p", None)  # the two together are refused
    return fields


def _blocks(message: Message) -> list[Fields]:
    if message.role == "tool":
        call_id = safe_id(message.tool_call_id or "")
        content = _content(message) if message.images else message.content
        return [{"type": "tool_result", "tool_use_id": call_id, "content": content}]
    calls = [
        {
            "type": "tool_use",
            "id": safe_id(call.id),
            "name": call.name,
            "input": arguments_object(call),
        }
        for call in message.tool_calls
    ]
    return [*_content(message), *calls]


def _content(message: Message) -> list[Fields]:
    return content_of(message, lambda text: {"type": "text", "text": text}, _image)


def _image(image: Image) -> Fields:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def _tools(request: GenerationRequest) -> Fields:
    if not request.tools:
        return {}
    tools = [tool_fields(tool, input_schema=parameters_of(tool)) for tool in request.tools]
    fields: Fields = {"tools": tools}
    choice = request.tool_choice
    chosen_tool: Fields = (
        {"type": "tool", "name": choice.name}
        if isinstance(choice, NamedTool)
        else {"type": _CHOICES[choice]}
    )
    if not request.parallel_tool_calls and choice != "none":
        chosen_tool["disable_parallel_tool_use"] = True
    if chosen_tool != {"type": "auto"}:
        fields["tool_choice"] = chosen_tool
    return fields


# What a Claude's id tells, in any cloud's spelling. An unknown model is treated as the newest ones
# are, which take least. A wrong guess costs one answer with status 400, whose field is then left
# out.


def is_claude(model: str) -> bool:
    return "claude" in model


def claude_version(model: str) -> tuple[int, int] | None:
    """(4, 5) for claude-sonnet-4-5-20250929; None when it is not known."""
    match = _CLAUDE.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else None


def claude_continues(model: str) -> bool:
    """Whether *model* continues a trailing assistant turn; later ones answer 400."""
    version = claude_version(model)
    return version is not None and version <= LAST_CLAUDE_WITH_PREFILL


def claude_takes_samplers(model: str) -> bool:
    """Whether *model* takes temperature, top_p or top_k; later Claudes answer 400."""
    version = claude_version(model)
    return not is_claude(model) or (version is not None and version <= LAST_CLAUDE_WITH_SAMPLERS)


def claude_max_tokens(model: str) -> int:
    """The longest answer to ask of *model* when the request sets no limit: the API wants a number,
    and refuses one above what the model can write."""
    version = claude_version(model) or (99, 0)
    if version < (3, 5):
        return 4_096
    if version < (3, 7):
        return 8_192
    return 32_000


# The answer.


class _OutputDetails(Struct):
    thinking_tokens: Count | None = None


class _Usage(Struct):
    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(Struct):
    id: str = ""
    model: str | None = None
    usage: _Usage | None = None


class _Block(Struct):
    """What a block starts with, or what is added to it or to the message."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    to: Any = None
    """The model that continues, in a block of the type "fallback"."""
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(Struct):
    index: Count = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Block | None = None
    usage: _Usage | None = None


class AnthropicDecoder(Decoder):
    """Reads one streamed message."""

    reasons: ClassVar[Reasons] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def __init__(self, provider: str, sent: HttpRequest | None) -> None:
        super().__init__(provider, sent)
        self._stop_reason: str | None = None
        self._counts = _Usage()

    def read(self, frame: Frame) -> list[Part]:
        match self.kind(frame):
            case "message_start":
                self._begin(self.json(frame, _Event).message or _Message())
            case "content_block_start":
                event = self.json(frame, _Event)
                return self._open(event.index, event.content_block or _Block())
            case "content_block_delta":
                event = self.json(frame, _Event)
                return self._add(event.index, event.delta or _Block())
            case "message_delta":
                self._note_end(self.json(frame, _Event))
            case "message_stop":
                return self._stop()
            case "error":
                raise self.error(self.json(frame, object))
        return []

    def _begin(self, message: _Message) -> None:
        self.name_model(message.model)
        self.calls.name_answer(message.id)
        self._count(message.usage)

    def _count(self, usage: _Usage | None) -> None:
        """Counts are cumulative, and a later event may leave out what has not changed."""
        for name in _Usage.__struct_fields__:
            value = getattr(usage, name, None)
            if value is not None:
                setattr(self._counts, name, value)

    def _open(self, index: int, block: _Block) -> list[Part]:
        if block.type == "tool_use":
            return [self.calls.open(index, id=block.id, name=block.name)]
        if block.type == "fallback":
            self.name_model(block.to.get("model") if isinstance(block.to, dict) else block.to)
        return self.text(block.text, block.thinking)

    def _add(self, index: int, delta: _Block) -> list[Part]:
        if delta.partial_json is not None:
            return [*self.calls.add(index, delta.partial_json)]
        return self.text(delta.text, delta.thinking)

    def _note_end(self, event: _Event) -> None:
        self._count(event.usage)
        if event.delta is not None and event.delta.stop_reason is not None:
            self._stop_reason, self.stop = event.delta.stop_reason, event.delta.stop_sequence

    def _stop(self) -> list[Part]:
        if self._stop_reason == "pause_turn":
            raise Truncated(self.provider, "the model paused before its answer was complete")
        self.is_done = True
        counts = self._counts
        details = counts.output_tokens_details or _OutputDetails()
        if counts.input_tokens is not None:
            cached = counts.cache_read_input_tokens or 0
            prompt = counts.input_tokens + (counts.cache_creation_input_tokens or 0) + cached
            self.count(prompt, counts.output_tokens, cached, details.thinking_tokens)
        return [] if self._stop_reason is None else self.finish(self._stop_reason)
