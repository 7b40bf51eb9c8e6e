"""A desk that asks before anything leaves the device, and what replies to it."""

from __future__ import annotations

from typing import Any

import msgspec

from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, StreamEvent
from spillover.cloud_fallback.policy.settings import PromptRule
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import ask
from tests.cloud_fallback.route.desk import CALM, Desk, text

REST = " Then a cloud came by. The end."
ASKING = RouteSettings(consent_timeout_s=30, warms_connections=False)
REPLACING = RouteOptions(may_replace=True)
CLOUDS = msgspec.structs.replace(CALM, rules=(PromptRule(name="foxes", words=("fox",)),))
FOX = "Tell me a story about a fox."


def asked(events: list[StreamEvent]) -> list[ConsentAsked]:
    return [event for event in events if isinstance(event, ConsentAsked)]


def replies(events: list[StreamEvent]) -> list[bool | None]:
    return [event.granted for event in events if isinstance(event, ConsentAnswered)]


class Replier:
    """Replies to the question, once so many characters have come after it."""

    def __init__(self, desk: Desk, granted: bool, *, after: int = 0, **scope: Any) -> None:
        self._desk, self._granted, self._after, self._scope = desk, granted, after, scope
        self._events: list[StreamEvent] = []
        self._said: int | None = None
        self.question = ""

    def __call__(self, event: StreamEvent) -> None:
        self._events.append(event)
        if isinstance(event, ConsentAsked):
            self.question, self._said = event.id, len(text(self._events))
        if self._said is not None and len(text(self._events)) >= self._said + self._after:
            self._said = None
            assert self._desk.router.consent(self.question, self._granted, **self._scope)


def turn(question: str, *said: str) -> GenerationRequest:
    """A conversation of the user's turns, with an answer after each but the last."""
    messages = [Message(role="user", content=question)]
    for content in said:
        messages += [
            Message(role="assistant", content="Once."),
            Message(role="user", content=content),
        ]
    return msgspec.structs.replace(ask(max_tokens=20), messages=tuple(messages))
