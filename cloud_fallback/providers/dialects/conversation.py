"""A conversation for the providers that are strict about its order."""

from __future__ import annotations

from itertools import groupby
from typing import Literal

from msgspec import Struct

from spillover.cloud_fallback.providers.dialects.shape import Prefill, check, with_prefill
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest, Message

Side = Literal["user", "assistant"]


class Turn(Struct, frozen=True, kw_only=True):
    """Messages that follow each other and are of one side; a tool's answer is of the user's."""

    side: Side
    messages: tuple[Message, ...]


class Conversation(Struct, frozen=True, kw_only=True):
    """The system's text apart, and turns that alternate, beginning with the user's."""

    system: str
    turns: tuple[Turn, ...]
    prefill: Prefill
    """The end of the last turn, where it is an assistant's that the model is to go on with."""


def alternating(request: GenerationRequest, *, prefill: bool, provider: str) -> Conversation:
    """The conversation of *request*, which goes on with its last message where *prefill* says so.

    Messages without content are left out. A conversation that the assistant opens is opened by a
    lone full stop of the user's instead. Raises InvalidRequest for what *provider* cannot be told,
    and when the assistant has the last word and is not to go on.
    """
    check(request, prefill=prefill)
    request, unfinished = with_prefill(request, prefill=prefill)
    turns = _turns(request.messages)
    if not turns:
        raise InvalidRequest("there is no message that a provider could answer", "messages")
    if turns[0].side == "assistant":
        turns.insert(0, Turn(side="user", messages=(Message(role="user", content="."),)))
    if turns[-1].side == "assistant" and not unfinished.text:
        raise InvalidRequest(
            f"{provider} answers a user's turn, and the last one is the assistant's", "messages"
        )
    system = "\n\n".join(m.content for m in request.messages if _is_system(m) and _says(m))
    return Conversation(system=system, turns=tuple(turns), prefill=unfinished)


def _turns(messages: tuple[Message, ...]) -> list[Turn]:
    said = (message for message in messages if _says(message) and not _is_system(message))
    return [
        Turn(side=side, messages=tuple(together)) for side, together in groupby(said, key=_side)
    ]


def _says(message: Message) -> bool:
    return bool(message.content.strip() or message.tool_calls or message.role == "tool")


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _side(message: Message) -> Side:
    return "assistant" if message.role == "assistant" else "user"
