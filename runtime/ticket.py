"""A request in flight, as the parent remembers it: enough to go on in another worker."""

from __future__ import annotations

import queue

from spillover.runtime import protocol
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    Queued,
    ReasoningDelta,
    Timings,
    Usage,
)
from spillover.runtime.request import GenerationRequest

Mail = list[EngineEvent] | SpilloverError


class Ticket:
    """Written by the reader thread (record, post), read by the thread that iterates the stream."""

    def __init__(self, ticket_id: int, request: GenerationRequest, seed: int) -> None:
        self.id = ticket_id
        self.request = request
        self.seed = seed
        self.mailbox: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self.sent = False
        self.cancelled = False
        self.n_deaths = 0
        self._n_prompt: int | None = None
        self._generated: list[list[int]] = [[] for _ in range(request.n)]
        self._open = set(range(request.n))

    @property
    def is_open(self) -> bool:
        """Whether a choice is unfinished."""
        return bool(self._open)

    def submission(self) -> protocol.Submit:
        """The order to a worker: from the start, or from where the last worker got to."""
        resumed: tuple[tuple[int, ...] | None, ...] = ()
        if self._n_prompt is not None:
            resumed = tuple(
                tuple(ids) if choice in self._open else None
                for choice, ids in enumerate(self._generated)
            )
        return protocol.Submit(id=self.id, request=self.request, seed=self.seed, resumed=resumed)

    def record(self, event: EngineEvent) -> None:
        """Remember what an event says of the progress."""
        match event:
            case Delta() | ReasoningDelta():
                self._generated[event.choice].extend(event.token_ids)
            case Finished():
                self._open.discard(event.choice)
            case Queued():
                self._n_prompt = event.n_prompt_tokens

    def cancellation_events(self) -> list[EngineEvent]:
        """What ends the open choices when no worker is there to do it."""
        events: list[EngineEvent] = [
            Finished(
                choice=choice,
                reason="cancelled",
                usage=Usage(
                    prompt_tokens=self._n_prompt or 0,
                    cached_tokens=0,
                    completion_tokens=len(self._generated[choice]),
                ),
                timings=Timings(queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0),
            )
            for choice in sorted(self._open)
        ]
        self._open.clear()
        return events
