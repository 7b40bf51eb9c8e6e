"""Splits held events of the local model into those to send and the rest."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from spillover.runtime.events import Delta, EngineEvent, ReasoningDelta, ToolCallDelta


def text_of(events: Sequence[EngineEvent]) -> str:
    """The text that *events* add to the answer."""
    return "".join(event.text for event in events if isinstance(event, Delta))


def n_tokens_of(events: Sequence[EngineEvent]) -> int:
    """The tokens of *events*."""
    written = (e for e in events if isinstance(e, Delta | ReasoningDelta | ToolCallDelta))
    return sum(len(event.token_ids) for event in written)


def split(
    events: Sequence[EngineEvent], n_chars: int, *, keeps_rest: bool
) -> tuple[list[EngineEvent], list[EngineEvent]]:
    """*events* up to *n_chars* characters of text, and what is left.

    A tool call stays complete: the next writer makes it again. *keeps_rest*: reasoning after the
    end of the text still goes with the first part.
    """
    sent: list[EngineEvent] = []
    for index, event in enumerate(events):
        if isinstance(event, ToolCallDelta):
            return sent, list(events[index:])
        if not isinstance(event, Delta):
            if keeps_rest or n_chars:
                sent.append(event)
            continue
        if len(event.text) > n_chars:
            head, tail = cut(event, n_chars)
            if head.text:
                sent.append(head)
            return sent, [tail, *events[index + 1 :]]
        n_chars -= len(event.text)
        sent.append(event)
    return sent, []


def cut(event: Delta, n_chars: int) -> tuple[Delta, Delta]:
    """*event* split in two; its tokens go with the second part."""
    head = Delta(choice=event.choice, text=event.text[:n_chars])
    return head, msgspec.structs.replace(event, text=event.text[n_chars:])


def followed_by(event: Delta, later: Delta) -> Delta:
    """*later* with the text and the tokens of both."""
    return msgspec.structs.replace(
        later,
        text=event.text + later.text,
        token_ids=event.token_ids + later.token_ids,
        logprobs=event.logprobs + later.logprobs,
    )


def with_logprobs(event: EngineEvent, n_top: int | None) -> EngineEvent:
    """*event* with no more logprobs than the client asked for."""
    if not isinstance(event, Delta | ReasoningDelta | ToolCallDelta) or not event.logprobs:
        return event
    if n_top is None:
        return msgspec.structs.replace(event, logprobs=())
    logprobs = tuple(
        record
        if len(record.top) <= n_top
        else msgspec.structs.replace(
            record, top=record.top[:n_top], sampled=record.sampled[: n_top + 1]
        )
        for record in event.logprobs
    )
    return msgspec.structs.replace(event, logprobs=logprobs)
