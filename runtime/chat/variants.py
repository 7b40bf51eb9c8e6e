"""Conversations of the same meaning, for templates that refuse some shapes or leave parts out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

from msgspec.structs import replace

from spillover.runtime.request import Message

Messages: TypeAlias = tuple[Message, ...]
Change: TypeAlias = Callable[[Messages], Messages]

SYSTEM = ("system", "developer")


def variants(messages: Messages) -> Iterator[Messages]:
    """*messages*, then other forms of it, the least changed first; none comes twice."""
    seen: list[Messages] = []
    for with_turns, with_systems, with_calls in itertools.product(
        (unchanged, in_turns),
        (unchanged, one_system, no_system),
        (unchanged, one_call_each, text_before_calls),
    ):
        variant = with_turns(with_systems(with_calls(messages)))
        if variant not in seen:
            seen.append(variant)
            yield variant


def unchanged(messages: Messages) -> Messages:
    return messages


def one_call_each(messages: Messages) -> Messages:
    """One call per message, each followed by its result, for templates without parallel calls."""
    split: list[Message] = []
    left = list(reversed(messages))
    while left:
        message = left.pop()
        if len(message.tool_calls) < 2:
            split.append(message)
            continue
        results = []
        while left and left[-1].role == "tool":
            results.append(left.pop())
        for index, call in enumerate(message.tool_calls):
            content = message.content if index == 0 else ""
            split.append(replace(message, content=content, tool_calls=(call,)))
            split += [result for result in results if result.tool_call_id == call.id]
        ids = {call.id for call in message.tool_calls}
        split += [result for result in results if result.tool_call_id not in ids]
    return tuple(split)


def text_before_calls(messages: Messages) -> Messages:
    """One call per message, and the text that came with the calls in a message before them."""
    split: list[Message] = []
    for message in one_call_each(messages):
        if message.tool_calls and message.content:
            split.append(replace(message, tool_calls=()))
            message = replace(message, content="", reasoning=None)
        split.append(message)
    return tuple(split)


def one_system(messages: Messages) -> Messages:
    """One system message in front; later ones are part of the user's next message."""
    n = next((i for i, m in enumerate(messages) if m.role not in SYSTEM), len(messages))
    if n == 0:
        return _into_users(messages)
    texts = "\n\n".join(message.content for message in messages[:n])
    return (replace(messages[0], content=texts), *_into_users(messages[n:]))


def no_system(messages: Messages) -> Messages:
    """All system messages are part of the user's next message."""
    return _into_users(messages)


def _into_users(messages: Messages) -> Messages:
    merged: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role in SYSTEM:
            waiting.append(message.content)
            continue
        if waiting and message.role == "user":
            message = replace(message, content="\n\n".join((*waiting, message.content)))
        elif waiting:
            _add_to_user(merged, waiting)
        waiting = []
        merged.append(message)
    if waiting:
        _add_to_user(merged, waiting)
    return tuple(merged)


def _add_to_user(merged: list[Message], texts: list[str]) -> None:
    """No message of the user follows: *texts* end the one before, or make one of their own."""
    if merged and merged[-1].role == "user":
        merged[-1] = replace(merged[-1], content="\n\n".join((merged[-1].content, *texts)))
    else:
        merged.append(Message(role="user", content="\n\n".join(texts)))


def in_turns(messages: Messages) -> Messages:
    """User and assistant take turns, and the user begins: neighbours of one role become one
    message, what an assistant left empty is dropped, and a first turn of its is preceded by an
    empty one of the user's."""
    turns: list[Message] = []
    for message in messages:
        if message.role == "assistant" and not (message.content or message.tool_calls):
            continue
        if turns and _are_one_turn(turns[-1], message):
            turns[-1] = _joined(turns[-1], message)
        elif message.role == "assistant" and all(turn.role in SYSTEM for turn in turns):
            turns += (Message(role="user", content=""), message)
        else:
            turns.append(message)
    return tuple(turns)


def _are_one_turn(first: Message, second: Message) -> bool:
    is_turn = first.role == second.role and first.role in ("user", "assistant")
    return is_turn and not first.tool_calls


def _joined(first: Message, second: Message) -> Message:
    return replace(
        second,
        content="\n\n".join(filter(None, (first.content, second.content))),
        reasoning="\n\n".join(filter(None, (first.reasoning, second.reasoning))) or None,
    )
