"""Ollama's requests for an answer: bodies become requests."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from spillover.edge_server.wire.content import ContentParts
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Encoder, ModelOrder
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.ollama.answer import (
    LineStream,
    LineWhole,
    Shape,
    chat_part,
    generate_part,
    ready,
)
from spillover.edge_server.wire.openai.chat import ChatMessage, conversation_of
from spillover.edge_server.wire.openai.tools import CallBody, ToolBody, tool_fields
from spillover.edge_server.wire.prompts import infill_prompt
from spillover.edge_server.wire.request_body import (
    MAX_MESSAGES,
    CommonBody,
    SpilloverBody,
    decode,
    request_of,
    route_options_of,
)
from spillover.edge_server.wire.response_format import AskedFormat
from spillover.runtime.engine import TextEngine
from spillover.runtime.request import JsonObject, JsonSchema


class Options(CommonBody, frozen=True, kw_only=True):
    """The object "options". Those that say how to load a model are ignored."""

    num_predict: int | None = None
    num_ctx: int | None = None
    mirostat: int | None = None
    tfs_z: float | None = None

    def sent_as(self) -> dict[str, str]:
        names = {name: f"options.{name}" for name in self.__struct_fields__}
        return {**names, "max_tokens": "options.num_predict", "logprobs": "top_logprobs"}


class FormattedOptions(Options, frozen=True, kw_only=True):
    """The same with the body's field "format"."""

    format: Any = None

    def asked_formats(self) -> Iterator[AskedFormat]:
        if self.format == "json":
            yield AskedFormat(JsonObject(), "format")
        elif isinstance(self.format, dict):
            yield AskedFormat(JsonSchema(schema=self.format), "format")
        elif self.format not in (None, ""):
            raise bad_request('format must be "json" or a schema', "format")
        yield from super().asked_formats()


class OllamaBody(Struct, frozen=True, kw_only=True):
    """What both endpoints share. A stream is the default."""

    model: str | None = None
    stream: bool | None = None
    options: Options | None = None
    format: Any = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    spillover: SpilloverBody | None = None


class OllamaMessage(Struct, frozen=True, kw_only=True):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: tuple[str, ...] | None = None
    tool_calls: tuple[CallBody, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatBody(OllamaBody, frozen=True, kw_only=True):
    """POST /api/chat."""

    messages: Annotated[tuple[OllamaMessage, ...], Meta(max_length=MAX_MESSAGES)] | None = None
    tools: tuple[ToolBody, ...] | None = None


class GenerateBody(OllamaBody, frozen=True, kw_only=True):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: tuple[int, ...] | None = None
    raw: bool | None = None
    images: tuple[str, ...] | None = None


def plan_chat(asked: AnswerRequest) -> AnswerPlan | ModelOrder:
    """POST /api/chat."""
    body = decode(asked.content, ChatBody)
    shape = Shape(part=chat_part, model=asked.engine.name)
    if not body.messages:
        return _order(body, shape)
    messages = tuple(
        ChatMessage(
            role=message.role,
            content=message.content,
            name=message.tool_name,
            tool_calls=message.tool_calls,
            tool_call_id=message.tool_call_id,
            reasoning_content=message.thinking,
            images=message.images or (),
        )
        for message in body.messages
    )
    tools = tool_fields(body.tools, None, None)
    return _planned(asked, body, shape, {"messages": conversation_of(messages), **tools})


def plan_generate(asked: AnswerRequest) -> AnswerPlan | ModelOrder:
    """POST /api/generate."""
    body = decode(asked.content, GenerateBody)
    shape = Shape(part=generate_part, model=asked.engine.name)
    for field, instead in (("template", "set chat_template"), ("context", "send /api/chat")):
        if getattr(body, field):
            raise bad_request(f"{field} is not supported: {instead} instead", field)
    prompt = body.prompt or ""
    if not prompt and not body.suffix:
        return _order(body, shape)
    if body.images and (body.suffix or body.raw):
        raise bad_request("images need a conversation: omit raw and suffix", "images")
    fields: dict[str, Any]
    if body.suffix:
        fields = {"prompt": infill_prompt(asked.engine, prompt, body.suffix)}
    elif body.raw:
        fields = {"prompt": prompt}
    else:
        images = ContentParts()
        for place, data in enumerate(body.images or ()):
            images.add_base64(data, f"images[{place}]")
        system = [{"role": "system", "content": body.system}] if body.system else []
        user = {"role": "user", "content": prompt, "images": images.images}
        fields = {"messages": [*system, user]}
    return _planned(asked, body, shape, fields)


def _planned(
    asked: AnswerRequest, body: OllamaBody, shape: Shape, fields: dict[str, Any]
) -> AnswerPlan:
    given = body.options or Options()
    _check_options(given, asked.engine)
    values = {name: getattr(given, name) for name in Options.__struct_fields__}
    values |= {
        "model": body.model,
        "stream": body.stream is not False,
        "spillover": body.spillover or given.spillover,
    }
    options = FormattedOptions(**values, format=body.format)
    n_predict = options.num_predict
    fields |= {
        "n": 1,
        # -1 and -2, without a limit or until the context is full, are the same here.
        "max_tokens": None if n_predict is None else n_predict if n_predict > 0 else -1,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "template_kwargs": _thinking(body.think) if "messages" in fields else {},
    }
    request = request_of(options, fields, asked.defaults)
    route_options = route_options_of(options, asked)
    shape = replace(shape, events=route_options.may_replace, progress=bool(options.return_progress))
    encoder: Encoder = LineStream(shape) if options.stream else LineWhole(shape)
    wanted = options.asked_format()
    return AnswerPlan(
        requests=(request,),
        encoder=encoder,
        options=route_options,
        format_field=None if wanted is None else wanted.field,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )


def _check_options(options: Options, engine: TextEngine) -> None:
    if options.num_ctx is not None and options.num_ctx > engine.card.n_ctx:
        n_ctx = engine.card.n_ctx
        message = f"num_ctx {options.num_ctx} is more than the {n_ctx} tokens of this server"
        raise bad_request(f"{message}: ask for less, or start it with more", "options.num_ctx")
    if options.mirostat:
        raise bad_request("mirostat is not supported", "options.mirostat")
    if options.tfs_z not in (None, 1.0):
        raise bad_request("tfs_z is not supported", "options.tfs_z")


def _thinking(think: bool | str | None) -> dict[str, Any]:
    if think is None:
        return {}
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    return {"enable_thinking": think not in (False, "none"), **level}


def _order(body: OllamaBody, shape: Shape) -> ModelOrder:
    """Of a request without a prompt: to load the model, or with `keep_alive: 0` to unload it."""
    seconds = keep_alive_s(body.keep_alive)
    loads = seconds != 0
    content = ready(shape, "load" if loads else "unload")
    return ModelOrder(loads=loads, content=content, keep_alive_s=seconds if loads else None)


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_LONGEST_KEEP_ALIVE_S = 10 * 365 * 86_400.0


def keep_alive_s(value: str | float | None) -> float | None:
    """Seconds of a keep_alive: a number, or Go's durations ("5m", "1h30m"); below 0 and beyond ten
    years it is infinity. None: it is not given. Raises WireError."""
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except ValueError:
        found = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) < 100 else None
        if found is None:
            message = 'keep_alive must be a number of seconds or a duration such as "5m"'
            raise bad_request(message, "keep_alive") from None
        parts = _DURATION_PART.findall(found[2])
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        seconds = -seconds if found[1] else seconds
    return seconds if 0 <= seconds <= _LONGEST_KEEP_ALIVE_S else math.inf
