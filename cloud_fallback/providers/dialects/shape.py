"""What the dialects have in common when they put a request into words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.request import GenerationRequest, Message, Tool, ToolCall
from spillover.runtime.sampling import Sampling

JSON_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}

_DEFAULTS = Sampling()


def check(request: GenerationRequest, *, prefill: bool) -> None:
    """Raises InvalidRequest for what no provider's conversation can express."""
    if not request.messages:
        raise InvalidRequest("a cloud provider takes a conversation, not a raw prompt", "prompt")
    if request.n != 1:
        raise InvalidRequest("a cloud provider is asked for one answer at a time", "n")
    if request.sampling.logit_bias:
        raise InvalidRequest(
            "logit_bias names tokens of the local model, which mean nothing to a cloud provider",
            "logit_bias",
        )
    if request.ignore_eos:
        raise InvalidRequest("a cloud provider's model ends when it ends", "ignore_eos")
    if prefill:
        _check_prefill(request)


def _check_prefill(request: GenerationRequest) -> None:
    last = request.messages[-1]
    if last.role != "assistant":
        raise InvalidRequest("only an assistant's turn can be gone on with", "messages")
    if last.tool_calls:
        raise InvalidRequest("a turn that calls tools cannot be gone on with", "messages")
    if request.response_format is not None:
        raise ResponseFormatRefused(
            "an answer with a response format cannot be continued by prefilling: the provider would"
            " begin it again"
        )


class Prefill(Struct, frozen=True, kw_only=True):
    """An unfinished turn as it is sent, and the white space cut from its end.

    Anthropic refuses white space there, chat templates cut it off, and models that see it write
    the next word's space a second time. See PrefilledText for the way back.
    """

    text: str = ""
    trimmed: str = ""


def with_prefill(request: GenerationRequest, *, prefill: bool) -> tuple[GenerationRequest, Prefill]:
    """*request* with its last turn as it is sent, where the model is to go on with it. A turn of
    nothing but white space is left out."""
    if not prefill:
        return request, Prefill()
    last = request.messages[-1]
    text = last.content.rstrip()
    turn = (msgspec.structs.replace(last, content=text),) if text else ()
    messages = (*request.messages[:-1], *turn)
    if not messages:
        raise InvalidRequest("there is no message that a provider could answer", "messages")
    request = msgspec.structs.replace(request, messages=messages)
    return request, Prefill(text=text, trimmed=last.content[len(text) :])


def chosen(sampling: Sampling, *names: str) -> dict[str, Any]:
    """Those of the fields *names* that are not at their default: someone chose them."""
    return {
        name: value
        for name in names
        if (value := getattr(sampling, name)) != getattr(_DEFAULTS, name)
    }


def body_bytes(fields: dict[str, Any], without: frozenset[str]) -> bytes:
    """The JSON of *fields* that are not None and not in *without*."""
    kept = {k: value for k, value in fields.items() if value is not None and k not in without}
    try:
        return msgspec.json.encode(kept)
    except UnicodeEncodeError as error:
        raise InvalidRequest("a message holds half a character", "messages") from error


def without_nones(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Those of *fields* that are not None; None when there are none."""
    return {name: value for name, value in fields.items() if value is not None} or None


def arguments_object(call: ToolCall) -> msgspec.Raw:
    """The arguments of *call* as a JSON object, for dialects that do not take them as text."""
    text = call.arguments.strip() or "{}"
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the arguments of the call of {call.name!r} are not a JSON object", "messages"
        ) from error
    return msgspec.Raw(text.encode())


def function_call(call: ToolCall, call_id: str) -> dict[str, Any]:
    """*call* in the shape that OpenAI gave to calls, with its arguments as text."""
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call_id, "type": "function", "function": function}


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of what *tool* takes, for providers that want one even where it takes nothing."""
    return tool.parameters or {"type": "object", "properties": {}}


def safe_id(call_id: str, *, allowed: str = "A-Za-z0-9_-", n_max: int = 64) -> str:
    """*call_id* in the alphabet of a provider; the same id always becomes the same, and two
    different ones stay different."""
    if len(call_id) <= n_max and re.fullmatch(f"[{allowed}]+", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:n_max]


def tool_names(messages: Iterable[Message]) -> dict[str, str]:
    """The name of the tool that each call in *messages* asked for, by the call's id."""
    return {call.id: call.name for message in messages for call in message.tool_calls}
