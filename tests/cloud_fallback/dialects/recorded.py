"""A provider's stream and what is to be read from it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Part, ProviderUsage
from spillover.runtime.events import Delta, FinishReason, ReasoningDelta, ToolCallDelta
from tests.cloud_fallback.dialects.conversations import dialect_for


class Call(Struct, frozen=True):
    id: str
    name: str
    arguments: str


class Answer(Struct, frozen=True, kw_only=True):
    """The parts of an answer, each kind joined."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


class Recording(Struct, frozen=True, kw_only=True):
    """*n_needed* frames make the answer complete; what follows them may be lost."""

    name: str
    dialect: str
    frames: tuple[Frame, ...]
    answer: Answer
    reason: FinishReason = "stop"
    stop: str | None = None
    usage: ProviderUsage | None = None
    model: str | None = None
    n_needed: int

    def decoder(self) -> Decoder:
        return dialect_for(self.dialect).decoder()


def joined(parts: Iterable[Part]) -> Answer:
    """*parts* as an answer; checks that calls are numbered and begun as ToolCallDelta says."""
    texts = {Delta: "", ReasoningDelta: ""}
    calls: list[Call] = []
    for part in parts:
        if isinstance(part, ToolCallDelta):
            if part.index == len(calls):
                assert part.id
                assert part.name
                calls.append(Call(part.id, part.name, part.arguments))
            else:
                assert part.id is None
                assert part.name is None
                begun = calls[part.index]
                calls[part.index] = Call(begun.id, begun.name, begun.arguments + part.arguments)
        else:
            assert part.text, "an empty delta says nothing"
            texts[type(part)] += part.text
    return Answer(text=texts[Delta], reasoning=texts[ReasoningDelta], calls=tuple(calls))


def read(decoder: Decoder, frames: Iterable[Frame]) -> Answer:
    return joined([part for frame in frames for part in decoder.feed(frame)])


def sse(*data: str) -> tuple[Frame, ...]:
    return tuple(Frame(data=item.encode()) for item in data)


def named(*events: str) -> tuple[Frame, ...]:
    """Frames of "name {json}"."""
    pairs = (event.split(" ", 1) for event in events)
    return tuple(Frame(name=name, data=data.encode()) for name, data in pairs)


def decoder_of(name: str) -> Decoder:
    """For an answer to whatever was sent."""
    return dialect_for(name).decoder()
