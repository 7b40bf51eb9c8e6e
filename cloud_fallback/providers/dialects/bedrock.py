"""AWS Bedrock's ConverseStream, whose events come in AWS's binary frames.

An answer is complete with messageStop; the usage follows in the metadata.
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.eventstream import EventStream
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.anthropic import (
    claude_continues,
    claude_takes_samplers,
    is_claude,
    visible_stops,
)
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
    without_nones,
)
from spillover.cloud_fallback.providers.dialects.images import content_of
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.image import Image
from spillover.runtime.request import GenerationRequest, JsonSchema, Message, NamedTool


class BedrockDialect(Dialect):
    """Its key is a bearer key; requests that AWS credentials sign are signed elsewhere."""

    frames = EventStream
    takes_image_urls = False

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self.headers = self.headers | {"accept": "application/vnd.amazon.eventstream"}

    def path(self, model: str) -> str:
        return f"/model/{quote(model, safe='')}/converse-stream"

    def may_prefill(self, model: str) -> bool:
        return claude_continues(model)

    def stops(self, request: GenerationRequest, model: str) -> tuple[str, ...]:
        return visible_stops(request)

    def fields(self, draft: Draft) -> Fields:
        config = {
            "maxTokens": draft.request.max_tokens,
            "stopSequences": list(draft.stop) or None,
            **_samplers(draft),
        }
        return {
            "messages": [
                {"role": side, "content": blocks} for side, blocks in draft.turns(_blocks)
            ],
            "system": [{"text": draft.system}] if draft.system else None,
            "inferenceConfig": without_nones(config),
            "toolConfig": _tools(draft),
            **self.response_format(draft),
        }

    def json_schema(self, json: JsonSchema) -> Fields:
        schema = {"name": json.name, "schema": msgspec.json.encode(json.schema).decode()}
        structure = {"jsonSchema": schema}
        return {"outputConfig": {"textFormat": {"type": "json_schema", "structure": structure}}}

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return BedrockDecoder(self.provider, sent)


def _samplers(draft: Draft) -> dict[str, float]:
    if not claude_takes_samplers(draft.model):
        return {}
    ours = draft.chosen("temperature", "top_p")
    fields: dict[str, float] = {}
    if "temperature" in ours and "temperature" not in draft.without:
        fields["temperature"] = min(ours["temperature"], 1.0)
    if "top_p" in ours and "top_p" not in draft.without and not (fields and is_claude(draft.model)):
        fields["topP"] = ours["top_p"]
    return fields


def _blocks(message: Message) -> list[Fields]:
    if message.role == "tool":
        # An empty text block is refused.
        content = _content(message) or [{"json": {}}]
        call_id = _call_id(message.tool_call_id or "")
        return [{"toolResult": {"toolUseId": call_id, "content": content}}]
    calls = [
        {
            "toolUse": {
                "toolUseId": _call_id(call.id),
                "name": call.name,
                "input": arguments_object(call),
            }
        }
        for call in message.tool_calls
    ]
    return [*_content(message), *calls]


def _content(message: Message) -> list[Fields]:
    return content_of(message, lambda text: {"text": text}, _image)


def _image(image: Image) -> Fields:
    kind = image.media_type.removeprefix("image/")
    return {"image": {"format": kind, "source": {"bytes": image.data}}}


def _call_id(call_id: str) -> str:
    return safe_id(call_id, allowed="a-zA-Z0-9_.:-")


def _tools(draft: Draft) -> Fields | None:
    request = draft.request
    if not request.tools or request.tool_choice == "none":
        if any(m.tool_calls or m.role == "tool" for m in request.messages):
            raise InvalidRequest(
                f"{draft.provider} takes a conversation with tool calls only where tools may be "
                "called",
                "tools",
            )
        return None
    draft.check_parallel()
    specs = (tool_fields(tool, inputSchema={"json": parameters_of(tool)}) for tool in request.tools)
    config: Fields = {"tools": [{"toolSpec": spec} for spec in specs]}
    if isinstance(request.tool_choice, NamedTool):
        config["toolChoice"] = {"tool": {"name": request.tool_choice.name}}
    elif request.tool_choice == "required":
        config["toolChoice"] = {"any": {}}
    return config


# The answer.


class _ToolUse(Struct, rename="camel"):
    tool_use_id: str | None = None
    name: str | None = None
    input: str | None = None
    type: str | None = None


class _Reasoning(Struct):
    text: str | None = None


class _Block(Struct, rename="camel"):
    """What a block starts with, or what is added to it."""

    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _Usage(Struct, rename="camel"):
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count | None = None
    cache_write_input_tokens: Count | None = None


class _Event(Struct, rename="camel"):
    content_block_index: Count = 0
    start: _Block | None = None
    delta: _Block | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class BedrockDecoder(Decoder):
    """Reads one streamed message."""

    reasons: ClassVar[Reasons] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter",
    }

    def feed(self, frame: Frame) -> list[Part]:
        if frame.is_exception and not self.is_done:
            raise self._exception(frame)
        return super().feed(frame)

    def _exception(self, frame: Frame) -> ProviderError:
        try:
            value = self.json(frame, object)
        except ProviderError:  # the name says enough
            value = None
        return self.error(value, frame.name)

    def read(self, frame: Frame) -> list[Part]:
        match frame.name:
            case "contentBlockStart":
                event = self.json(frame, _Event)
                return self._open(event.content_block_index, event.start or _Block())
            case "contentBlockDelta":
                event = self.json(frame, _Event)
                return self._add(event.content_block_index, event.delta or _Block())
            case "messageStop":
                return self.finish(self.json(frame, _Event).stop_reason or "")
            case "metadata":
                self._note_usage(self.json(frame, _Event).usage)
            case "messageStart" | "contentBlockStop":
                self.json(frame, _Event)  # a malformed one is an error all the same
        return []

    def _open(self, index: int, block: _Block) -> list[Part]:
        call = block.tool_use
        if call is None or call.type is not None:  # with a type: the provider runs it itself
            return []
        return [self.calls.open(index, id=call.tool_use_id, name=call.name)]

    def _add(self, index: int, delta: _Block) -> list[Part]:
        if delta.tool_use is not None:
            return [*self.calls.add(index, delta.tool_use.input)]
        if delta.reasoning_content is not None:
            return self.text("", delta.reasoning_content.text)
        return self.text(delta.text)

    def _note_usage(self, usage: _Usage | None) -> None:
        if usage is None:
            return
        cached = usage.cache_read_input_tokens or 0
        prompt = usage.input_tokens + cached + (usage.cache_write_input_tokens or 0)
        self.count(prompt, usage.output_tokens, cached)
        self.is_done = self.finish_reason is not None
