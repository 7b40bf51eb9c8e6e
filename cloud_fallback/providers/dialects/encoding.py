"""What the dialects have in common when they write a request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.request import GenerationRequest, Message, Tool, ToolCall
from spillover.runtime.sampling import Sampling

Fields: TypeAlias = dict[str, Any]
"""Of a request's body."""
Side: TypeAlias = Literal["user", "assistant"]

JSON_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}

_DEFAULTS = Sampling()


class HttpRequest(Struct, frozen=True, kw_only=True):
    """A POST without the provider's base address and without the key."""

    path: str
    """Appended to the base address; it may carry a query."""
    headers: dict[str, str]
    body: bytes
    stop: tuple[str, ...] = ()
    """The stop strings that the provider looks for itself; the caller must find all others."""
    own_stops: tuple[str, ...] = ()
    """Stop strings that the dialect added; its decoder cuts the answer there."""
    prefilled: str = ""
    """The unfinished assistant's turn as it was sent, which the model continues."""
    trimmed: str = ""
    """White space that was cut from the end of that turn: prefilled + trimmed is the turn. Where
    the answer repeats it, the decoder removes it, so that the answer joins the whole turn."""
    splits_reasoning: bool = True
    """Whether the answer's text may begin with reasoning between tags."""


class Draft(Struct, frozen=True, kw_only=True):
    """A request that was checked and is ready to be written for *model* of *provider*."""

    request: GenerationRequest
    """Its last turn is the prefilled one, where there is one."""
    provider: str
    model: str
    stop: tuple[str, ...]
    """The stop strings to send."""
    without: frozenset[str]
    """Fields that the model has refused."""
    prefilled: str
    trimmed: str

    def chosen(self, *names: str) -> Fields:
        """The samplers *names* that are not at their default: someone chose them."""
        sampling = self.request.sampling
        values = ((name, getattr(sampling, name)) for name in names)
        return {name: value for name, value in values if value != getattr(_DEFAULTS, name)}

    @property
    def system(self) -> str:
        """All system messages, for providers that take them apart from the turns."""
        messages = self.request.messages
        return "\n\n".join(m.content for m in messages if _is_system(m) and _has_content(m))

    def turns(self, write: Callable[[Message], list[Fields]]) -> list[tuple[Side, list[Fields]]]:
        """The other messages as *write* makes blocks of them, in turns that alternate, the user's
        first; a tool's answer is on the user's side.

        Messages without content are left out. Where the assistant opens the conversation, a lone
        full stop of the user's goes before it. Raises InvalidRequest when the assistant has the
        last word and its turn is not to be continued.
        """
        shown = [m for m in self.request.messages if _has_content(m) and not _is_system(m)]
        if not shown:
            raise _nothing_to_answer()
        if shown[0].role == "assistant":
            shown.insert(0, Message(role="user", content="."))
        if shown[-1].role == "assistant" and not self.prefilled:
            raise InvalidRequest(
                f"{self.provider} answers a user's turn, but the last turn is the assistant's",
                "messages",
            )
        sides = groupby(shown, key=_side)
        return [(side, [block for m in messages for block in write(m)]) for side, messages in sides]

    def check_parallel(self) -> None:
        """Raises InvalidRequest where the request wants one tool call at a time."""
        if not self.request.parallel_tool_calls:
            raise InvalidRequest(
                f"{self.provider} cannot be kept from calling several tools at once",
                "parallel_tool_calls",
            )


def _side(message: Message) -> Side:
    return "assistant" if message.role == "assistant" else "user"


def _has_content(message: Message) -> bool:
    is_said = message.content.strip() or message.tool_calls or message.images
    return bool(is_said or message.role == "tool")


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def check(request: GenerationRequest, *, prefill: bool) -> None:
    """Raises InvalidRequest for what no provider's conversation can express."""
    if not request.messages:
        raise InvalidRequest("a cloud provider takes a conversation, not a raw prompt", "prompt")
    if request.n != 1:
        raise InvalidRequest("a cloud provider gives one answer at a time", "n")
    if request.sampling.logit_bias:
        raise InvalidRequest(
            "logit_bias names tokens of the local model, which mean nothing to a cloud provider",
            "logit_bias",
        )
    if request.ignore_eos:
        raise InvalidRequest("a cloud provider cannot ignore the end of an answer", "ignore_eos")
    if not prefill:
        return
    last = request.messages[-1]
    if last.role != "assistant":
        raise InvalidRequest("only an assistant's turn can be continued", "messages")
    if last.tool_calls:
        raise InvalidRequest("a turn that calls tools cannot be continued", "messages")
    if request.response_format is not None:
        raise ResponseFormatRefused(
            "an answer with a response format cannot be continued by prefilling: the provider would"
            " begin it again"
        )


def with_prefill(request: GenerationRequest) -> tuple[GenerationRequest, str, str]:
    """*request* with its last turn as it is sent to be continued, that turn's text, and the white
    space that was cut from its end. A turn of nothing but white space is left out.

    Anthropic refuses white space there, chat templates cut it off, and models that see it write
    the next word's space a second time. See PrefilledText for the way back.
    """
    last = request.messages[-1]
    text = last.content.rstrip()
    messages = (*request.messages[:-1], *((replace(last, content=text),) if text else ()))
    if not messages:
        raise _nothing_to_answer()
    return replace(request, messages=messages), text, last.content[len(text) :]


def _nothing_to_answer() -> InvalidRequest:
    return InvalidRequest("there is no message that a provider could answer", "messages")


# Fields of the body.


def body_bytes(fields: Fields, without: frozenset[str]) -> bytes:
    """The JSON of *fields* that are not None and not in *without*."""
    kept = {k: value for k, value in fields.items() if value is not None and k not in without}
    try:
        return msgspec.json.encode(kept)
    except UnicodeEncodeError as error:
        raise InvalidRequest("a message holds half a character", "messages") from error


def without_nones(fields: Fields) -> Fields | None:
    """The *fields* that are not None; None when there are none."""
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


def function_call(call: ToolCall, call_id: str) -> Fields:
    """*call* as OpenAI writes it, with its arguments as text."""
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call_id, "type": "function", "function": function}


def tool_fields(tool: Tool, **schema: Any) -> Fields:
    """*tool* as most providers describe one, with its *schema* in their words."""
    fields: Fields = {"name": tool.name, **schema}
    if tool.description:
        fields["description"] = tool.description
    if tool.strict:
        fields["strict"] = True
    return fields


def parameters_of(tool: Tool) -> Fields:
    """The schema of what *tool* takes, for providers that want one even where it takes nothing."""
    return tool.parameters or {"type": "object", "properties": {}}


def safe_id(call_id: str, *, allowed: str = "A-Za-z0-9_-", n_max: int = 64) -> str:
    """*call_id* in a provider's alphabet: equal ids stay equal, and different ones different."""
    if len(call_id) <= n_max and re.fullmatch(f"[{allowed}]+", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:n_max]
