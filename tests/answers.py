"""Asking an engine from a test."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from spillover.runtime.engine import Engine, ModelCard
from spillover.runtime.events import Delta, EngineEvent, Finished, Queued
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling

GREEDY = Sampling(temperature=0)
STORY = "Tell me a story about a fox named Ruby."
REST = " Then a cloud came by and finished the story. The end."
"""What a provider adds to it."""
FAKE_CARD = ModelCard(
    name="fake",
    architecture="llama",
    description="llama 1B Q4_0",
    n_params=10,
    size_bytes=20,
    n_vocab=30,
    n_ctx_train=64,
    n_ctx=64,
    n_kv=64,
    n_parallel=1,
    n_threads=1,
    has_chat_template=True,
    use_extra_bufts=True,
)


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


def was_preempted(events: list[EngineEvent]) -> bool:
    """Whether the answer lost its cells when it had begun: it is told that it waits."""
    first = [isinstance(event, Delta) for event in events].index(True)
    return any(isinstance(event, Queued) for event in events[first:])


def all_at_once(engine: Engine, requests: list[GenerationRequest]) -> list[list[EngineEvent]]:
    """The streams of all requests, which run at the same time."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: list(engine.stream(request)), requests))


def first_stop(text: str, stops: tuple[str, ...]) -> str:
    """What stands before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def worker_of(engine: LocalEngine) -> int:
    """The process id of a worker that runs: never 0, which a signal takes for all of us."""
    pid = engine.worker_pid
    assert pid
    return pid
