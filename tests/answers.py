"""Asking an engine from a test."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from spillover.runtime.engine import Engine
from spillover.runtime.events import Delta, EngineEvent, Finished
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling

GREEDY = Sampling(temperature=0)
STORY = "Tell me a story about a fox named Ruby."


def ask(text: str = STORY, sampling: Sampling = GREEDY, **fields: object) -> GenerationRequest:
    """A conversation of one message; greedy unless told."""
    message = Message(role="user", content=text)
    return GenerationRequest(messages=(message,), sampling=sampling, **fields)  # type: ignore[arg-type]  # passed on as they are


def text_of(events: Iterable[EngineEvent], choice: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta) and e.choice == choice)


def ids_of(events: Iterable[EngineEvent], choice: int = 0) -> list[int]:
    return [
        token
        for e in events
        if isinstance(e, Delta) and e.choice == choice
        for token in e.token_ids
    ]


def end_of(events: Iterable[EngineEvent], choice: int = 0) -> Finished:
    return next(e for e in events if isinstance(e, Finished) and e.choice == choice)


def all_at_once(engine: Engine, requests: list[GenerationRequest]) -> list[list[EngineEvent]]:
    """The streams of all requests, which run at the same time."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: list(engine.stream(request)), requests))
