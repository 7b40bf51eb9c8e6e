"""What the dialects have in common when they put a request into words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest, Message, ToolCall
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
    if request.form is not None:
        raise InvalidRequest(
            "an answer with a form cannot be gone on with: the provider would begin the form anew",
            "form",
        )


class Prefill(Struct, frozen=True, kw_only=True):
    """An unfinished turn as it is sent, and the white space cut from its end.

    Anthropic refuses white space there, chat templates cut it off, and models that see it write
    the next word's space a second time. See PrefilledText for the way back.
    """

    text: str
    trimmed: str


def with_prefill(request: GenerationRequest) -> tuple[GenerationRequest, Prefill]:
    """*request* with its last turn, which the model is to go on with, as it is sent. A turn of
    nothing but white space is left out."""
    last = request.messages[-1]
    text = last.content.rstrip()
    turn = (msgspec.structs.replace(last, content=text),) if text else ()
    messages = (*request.messages[:-1], *turn)
    if not messages:
        raise InvalidRequest("there is no message that a provider could answer", "messages")
    request = msgspec.structs.replace(request, messages=messages)
    return request, Prefill(text=text, trimmed=last.content[len(text) :])


NO_PREFILL = Prefill(text="", trimmed="")


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


def safe_id(call_id: str, *, allowed: str = "A-Za-z0-9_-", n_max: int = 64) -> str:
    """*call_id* in the alphabet of a provider; the same id always becomes the same, and two
    different ones stay different."""
    if len(call_id) <= n_max and re.fullmatch(f"[{allowed}]+", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:n_max]


def tool_names(messages: Iterable[Message]) -> dict[str, str]:
    """The name of the tool that each call in *messages* asked for, by the call's id."""
    return {call.id: call.name for message in messages for call in message.tool_calls}


Side = Literal["user", "assistant"]


class Turn(Struct, frozen=True, kw_only=True):
    """Messages that follow each other and are of one side; a tool's answer is of the user's."""

    side: Side
    messages: tuple[Message, ...]


class Conversation(Struct, frozen=True, kw_only=True):
    """The system's text apart, and turns that alternate, beginning with the user's."""

    system: str
    turns: tuple[Turn, ...]


def alternating(request: GenerationRequest) -> Conversation:
    """The conversation of *request*, for providers that are strict about its order.

    Messages without content are left out. A conversation that the assistant opens is opened by a
    lone full stop of the user's instead.
    """
    system: list[str] = []
    turns: list[tuple[Side, list[Message]]] = []
    for message in request.messages:
        if not (message.content.strip() or message.tool_calls or message.role == "tool"):
            continue
        if message.role in ("system", "developer"):
            system.append(message.content)
            continue
        side: Side = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1][0] == side:
            turns[-1][1].append(message)
        else:
            turns.append((side, [message]))
    if not turns:
        raise InvalidRequest("there is no message that a provider could answer", "messages")
    if turns[0][0] == "assistant":
        turns.insert(0, ("user", [Message(role="user", content=".")]))
    return Conversation(
        system="\n\n".join(system),
        turns=tuple(Turn(side=side, messages=tuple(messages)) for side, messages in turns),
    )


def check_end(conversation: Conversation, prefill: Prefill, provider: str) -> None:
    """Raises InvalidRequest when the assistant has the last word and is not to go on."""
    if conversation.turns[-1].side == "assistant" and not prefill.text:
        raise InvalidRequest(
            f"{provider} answers a user's turn, and the last one is the assistant's", "messages"
        )
