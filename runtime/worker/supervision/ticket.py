"""A request in flight, with all that another worker needs to continue it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from msgspec import structs

from spillover.runtime.embedding_request import EmbeddingRequest, EngineRequest
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import (
    Delta,
    Embedded,
    EngineEvent,
    Finished,
    Measures,
    Prefilling,
    Queued,
    ReasoningDelta,
    Timings,
    ToolCallDelta,
    Usage,
)
from spillover.runtime.worker import protocol

Mail = list[EngineEvent] | SpilloverError


class Ticket:
    """Written by the reader thread (record, post), read by the thread that iterates the stream."""

    def __init__(
        self,
        ticket_id: int,
        request: EngineRequest,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = ticket_id
        self.request = request
        self.seed = seed
        self.mailbox: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self.sent = False
        self.cancelled = False
        self.n_deaths = 0
        self.n_at_death = 0
        """Tokens that it had when its worker last died."""
        self._clock = clock
        self._n_prompt: int | None = None
        self._generated: list[list[int]] = [[] for _ in range(request.n)]
        self._n_reasoning = [0] * request.n
        self._embedded: dict[int, int] = {}
        """Of the inputs that have their vectors: their tokens."""
        self._open = set(range(request.n))
        self._submitted = clock()
        self._begun: float | None = None
        self._first: dict[int, float] = {}

    @property
    def n_generated(self) -> int:
        """Tokens, or vectors, of all choices so far."""
        return sum(map(len, self._generated)) + len(self._embedded)

    @property
    def n_open(self) -> int:
        """Choices that are unfinished."""
        return len(self._open)

    @property
    def is_open(self) -> bool:
        """Whether a choice is unfinished."""
        return bool(self._open)

    def order(self) -> bytes:
        """The order to a worker, as a frame: from the start, or from where the last one got to."""
        return protocol.encode(self._submission())

    def _submission(self) -> protocol.Submit | protocol.Embed:
        if isinstance(self.request, EmbeddingRequest):
            return protocol.Embed(
                id=self.id,
                request=self.request,
                done=tuple(sorted(self._embedded)),
                accepted=self._n_prompt is not None,
            )
        resumed: tuple[tuple[int, ...] | None, ...] = ()
        if self._n_prompt is not None:
            resumed = tuple(
                tuple(ids) if choice in self._open else None
                for choice, ids in enumerate(self._generated)
            )
        return protocol.Submit(id=self.id, request=self.request, seed=self.seed, resumed=resumed)

    def record(self, event: EngineEvent) -> EngineEvent:
        """Note the progress that *event* reports; returns it as the client should see it."""
        match event:
            case Delta() | ReasoningDelta() | ToolCallDelta():
                generated = self._generated[event.choice]
                if not generated:
                    self._first.setdefault(event.choice, self._clock())
                generated.extend(event.token_ids)
                if isinstance(event, ReasoningDelta):
                    self._n_reasoning[event.choice] += len(event.token_ids)
                if event.measures is not None and self.n_deaths:
                    return structs.replace(
                        event, measures=self._from_the_start(event.measures, event.choice)
                    )
            case Embedded():
                self._embedded[event.index] = event.n_tokens
                self._begun = self._begun or self._submitted
            case Finished():
                self._open.discard(event.choice)
                if self.n_deaths:
                    whole = self._from_the_start(event, event.choice)
                    return structs.replace(event, usage=whole.usage, timings=whole.timings)
            case Queued():
                self._n_prompt = event.n_prompt_tokens
            case Prefilling():
                if self._begun is None:
                    self._begun = self._clock()
        return event

    def _from_the_start(self, last: Measures | Finished, choice: int) -> Measures:
        """Add the parts of earlier workers: the last one counts only its own."""
        usage = structs.replace(last.usage, reasoning_tokens=self._n_reasoning[choice])
        if self._embedded:
            usage = structs.replace(usage, prompt_tokens=sum(self._embedded.values()))
        timings = structs.replace(
            self._timings(choice),
            n_drafted=last.timings.n_drafted,
            n_accepted=last.timings.n_accepted,
        )
        return Measures(usage=usage, timings=timings)

    def _timings(self, choice: int) -> Timings:
        now = self._clock()
        begun = now if self._begun is None else self._begun
        first = self._first.get(choice, now)
        return Timings(
            queue_ms=1e3 * (begun - self._submitted),
            prefill_ms=1e3 * (first - begun),
            decode_ms=1e3 * (now - first),
        )

    def cancellation_events(self) -> list[EngineEvent]:
        """The events that end the open choices when there is no worker to send them."""
        events: list[EngineEvent] = [
            Finished(
                choice=choice,
                reason="cancelled",
                usage=Usage(
                    prompt_tokens=self._n_prompt or 0,
                    cached_tokens=0,
                    completion_tokens=len(self._generated[choice]),
                    reasoning_tokens=self._n_reasoning[choice],
                ),
                timings=self._timings(choice),
            )
            for choice in sorted(self._open)
        ]
        self._open.clear()
        return events
