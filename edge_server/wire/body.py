"""Request bodies: JSON to typed requests, or a 400 that names the field."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.route.routing import Fallback, Place, Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.response_format import (
    ResponseFormatFields,
    named,
    response_format_of,
)
from spillover.edge_server.wire.tools import CallBody, ChoiceBody, ToolBody, calls_of, tool_fields
from spillover.runtime.decoders import decoder_of
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Origin
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling

MAX_MESSAGES = 4_096
_LENGTH = "max_completion_tokens"


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class SpilloverBody(Struct, frozen=True, kw_only=True):
    """Our own part of a request: where the answer may be written, and what the client can see."""

    fallback: Fallback | None = None
    only: Place | None = None
    prefer: Origin | None = None
    mode: HandoffMode | None = None
    events: bool | None = None
    """Send handoff, seam, consent and replace events."""
    resumable: bool | None = None
    """A broken connection does not end the stream: it can be taken up again."""


class CommonBody(ResponseFormatFields, frozen=True, kw_only=True):
    """What all dialects share. Unknown fields are ignored, null means the default; ranges are
    those of Sampling and GenerationRequest."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_progress: bool | None = None
    max_tokens: int | None = None
    n: int | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: dict[str, float] | None = None
    spillover: SpilloverBody | None = None

    def sent_as(self) -> dict[str, str]:
        """Fields of the request whose names in this body are others."""
        return {} if self.repetition_penalty is None else {"repeat_penalty": "repetition_penalty"}


class TextPart(Struct, frozen=True):
    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True):
    role: str
    content: str | tuple[TextPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[CallBody, ...] | None = None
    tool_call_id: str | None = None


class ChatBody(CommonBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    modalities: tuple[str, ...] | None = None
    tools: tuple[ToolBody, ...] | None = None
    tool_choice: str | ChoiceBody | None = None
    parallel_tool_calls: bool | None = None

    def sent_as(self) -> dict[str, str]:
        length = {} if self.max_completion_tokens is None else {"max_tokens": _LENGTH}
        names = {"logprobs": "top_logprobs", "template_kwargs": "chat_template_kwargs"}
        return {**super().sent_as(), **names, **length}


def route_options_of(body: CommonBody, *, owner: str, events_header: str | None) -> RouteOptions:
    """What the request wants of the route; it can only narrow what the device's owner set."""
    own = body.spillover or SpilloverBody()
    events = own.events if own.events is not None else events_header == "1"
    return RouteOptions(
        owner=owner,
        routing=Routing(fallback=own.fallback, only=own.only, prefer=own.prefer),
        mode=own.mode,
        may_replace=events,
    )


def is_resumable(body: CommonBody, *, resume_header: str | None) -> bool:
    """Whether the client may come back to its stream. Only streams can be taken up again: the
    header may stand on all requests of a client, but who asks for it in a body must mean one."""
    wanted = body.spillover.resumable if body.spillover else None
    if wanted and not body.stream:
        raise bad_request("only a stream can be resumable: set stream: true", "spillover.resumable")
    return bool(body.stream) and (wanted if wanted is not None else resume_header == "1")


B = TypeVar("B")


def decode(body: bytes, kind: type[B]) -> B:
    """*body* as *kind*, or a 400 that names the field at fault."""
    try:
        return decoder_of(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _named(error) from error
    except msgspec.DecodeError as error:
        raise bad_request(f"the body is no valid JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise bad_request("the body is not UTF-8") from error
    except RecursionError as error:
        raise bad_request("the body is nested too deeply") from error


def _named(error: msgspec.ValidationError) -> WireError:
    message, found, path = str(error).rpartition(" - at `$")
    if not found:
        message = str(error)
    param = path.rstrip("`").lstrip(".") if found else None
    if message.startswith("Object missing required field"):
        param = ".".join(filter(None, (param, message.split("`")[1])))
    return bad_request(f"{param}: {message}" if param else message, param)


def chat_request(body: ChatBody) -> GenerationRequest:
    """The request of a chat completion."""
    logprobs = None
    if body.logprobs:
        logprobs = body.top_logprobs or 0
    elif body.top_logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
    if body.modalities and body.modalities != ("text",):
        raise bad_request("this model answers with text only", "modalities")
    fields = {
        "messages": tuple(_message(m, i) for i, m in enumerate(body.messages)),
        "max_tokens": body.max_tokens
        if body.max_completion_tokens is None
        else body.max_completion_tokens,
        "logprobs": logprobs,
        "continue_final_message": body.continue_final_message or False,
        "template_kwargs": _template_kwargs(body),
        **tool_fields(body.tools, body.tool_choice, body.parallel_tool_calls),
    }
    if fields["max_tokens"] == 0:
        name = body.sent_as().get("max_tokens", "max_tokens")
        raise bad_request(f"{name}: at least one token must be asked for", name)
    if body.add_generation_prompt and body.continue_final_message:
        raise bad_request(
            "a new turn cannot be opened while the last one is continued: leave out "
            "add_generation_prompt",
            "add_generation_prompt",
        )
    return request_of(body, fields)


def _template_kwargs(body: ChatBody) -> dict[str, Any]:
    """Variables for the model's template; those named in the body itself go first."""
    effort = body.reasoning_effort
    if effort is None:
        return body.chat_template_kwargs or {}
    thinks = effort not in ("none", "minimal")
    return {
        "reasoning_effort": effort,
        "enable_thinking": thinks,
        **(body.chat_template_kwargs or {}),
    }


def _message(message: ChatMessage, index: int) -> dict[str, Any]:
    content = message.content
    if isinstance(content, tuple):
        for place, part in enumerate(content):
            if part.type != "text" or part.text is None:
                raise bad_request(
                    f"this model reads text only, not parts of the type {part.type!r}",
                    f"messages[{index}].content[{place}]",
                )
        content = "".join(part.text or "" for part in content)
    return {
        "role": message.role,
        "content": content or "",
        "name": message.name,
        "tool_calls": calls_of(message.tool_calls or ()),
        "tool_call_id": message.tool_call_id,
    }


def request_of(body: CommonBody, fields: dict[str, Any]) -> GenerationRequest:
    """The request with *fields*, and with what all dialects share from *body*."""
    sampling = {
        name: value
        for name in Sampling.__struct_fields__
        if (value := getattr(body, name, None)) is not None
    }
    if body.repetition_penalty is not None:
        sampling["repeat_penalty"] = body.repetition_penalty
    if body.top_k == -1:
        sampling["top_k"] = 0  # how llama.cpp and vLLM let it be switched off, too
    if body.seed is not None and body.seed < 0:
        del sampling["seed"]  # llama.cpp's way to ask for a random one
    if body.logit_bias is not None:
        sampling["logit_bias"] = _biases(body.logit_bias)
    stop = (body.stop,) if isinstance(body.stop, str) else body.stop or ()
    if fields["max_tokens"] == -1:
        fields["max_tokens"] = None  # llama.cpp's way to say: no limit
    fields = {
        "n": 1 if body.n is None else body.n,
        **fields,
        "sampling": sampling,
        "stop": stop,
        "ignore_eos": body.ignore_eos or False,
        "reuse_prefix": body.cache_prompt is not False,
        "response_format": response_format_of(body),
    }
    try:
        return msgspec.convert(fields, GenerationRequest).checked()
    except msgspec.ValidationError as error:
        raise _as_sent(_named(error), body) from error
    except InvalidRequest as error:
        known = named(error, body)
        if isinstance(known, WireError):
            raise known from error
        raise _as_sent(bad_request(str(error), error.param), body) from error


def _as_sent(error: WireError, body: CommonBody) -> WireError:
    """*error* with the field's name in the body: clients know no "sampling.top_k"."""
    param = (error.param or "").removeprefix("sampling.")
    message = str(error).removeprefix("sampling.")
    name = body.sent_as().get(param, param)
    if message.startswith(f"{param}: "):
        message = name + message.removeprefix(param)
    return bad_request(message, name or None)


def _biases(biases: dict[str, float]) -> dict[int, float]:
    return {token_id(name): bias for name, bias in biases.items()}


def token_id(name: str) -> int:
    """The token id in *name*, or a 400."""
    if not (name.isascii() and name.isdigit()) or len(name) > 10:
        raise bad_request(f"logit_bias: {name[:40]!r} is no token id", "logit_bias")
    return int(name)
