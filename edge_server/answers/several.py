"""Several generations as one answer, whose choices are numbered on from prompt to prompt."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from msgspec import structs

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.answers.event_log import EventLog
from spillover.edge_server.answers.service import Generation, Service, failure_of
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineBusy
from spillover.runtime.events import Delta, Finished, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import GenerationRequest

_Chosen: TypeAlias = Delta | ReasoningDelta | ToolCallDelta | Finished


class Several:
    """From outside one generation: a log, an error, a switch that ends it.

    The first one is begun at once, and what its start raises is raised here. As many run at a
    time as the engine has places; a thread begins the next one when one has ended.
    """

    def __init__(
        self, service: Service, requests: Sequence[GenerationRequest], options: RouteOptions
    ) -> None:
        self.log = EventLog()
        self.cancellation = Cancellation()
        self.error: Exception | None = None
        self._service = service
        self._options = options
        self._changed = threading.Condition()
        self._waiting = deque(requests)
        self._n_begun = 0
        self._running: set[_Part] = set()
        self._over = False  # no more are begun
        self._failed = False  # what the others still say is not wanted
        self._begin(self._waiting.popleft())
        self.cancellation.subscribe(self._give_up)
        threading.Thread(target=self._begin_the_rest, name="several", daemon=True).start()

    def _begin(self, request: GenerationRequest) -> None:
        options = structs.replace(self._options, id=f"{self._options.id}-{self._n_begun}")
        part = _Part(self, self._service.start(request, options), self._n_begun)
        self._n_begun += request.n
        with self._changed:
            self._running.add(part)
            if self._over:
                part.generation.cancellation.cancel()
        part.follow()

    def _begin_the_rest(self) -> None:
        while (request := self._next()) is not None:
            try:
                self._begin(request)
            except EngineBusy as error:
                if not self._wait_for_an_end(request):
                    self._break_off(error)
            except Exception as error:
                self._break_off(error)
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            self._over = True
            if self._waiting and not self._failed:
                self.log.append(Failed(code="cancelled", message="the answer was cancelled"))
        self.log.close()

    def _next(self) -> GenerationRequest | None:
        """The next request, once there is a place for it; None when there is none."""
        n_places = self._service.engine.card.n_parallel
        with self._changed:
            self._changed.wait_for(lambda: self._over or len(self._running) < n_places)
            return self._waiting.popleft() if self._waiting and not self._over else None

    def _wait_for_an_end(self, refused: GenerationRequest) -> bool:
        """Others fill the queue: try again when one of ours has ended. False: none is running."""
        with self._changed:
            if not self._running:
                return False
            self._waiting.appendleft(refused)
            n = len(self._running)
            self._changed.wait_for(lambda: len(self._running) < n)
            return True

    def take(self, part: _Part, events: list[StreamEvent], *, ended: bool) -> None:
        """What a part has to say, in the thread that writes its log."""
        with self._changed:
            for event in events:
                if self._failed:
                    break
                self.log.append(part.numbered(event))
                if isinstance(event, Failed):
                    self._fail(part.generation.error)
            if ended:
                self._running.discard(part)
                self._changed.notify()

    def _break_off(self, error: Exception) -> None:
        with self._changed:
            if not self._over:
                self.log.append(failure_of(error))
                self._fail(error)

    def _fail(self, error: Exception | None) -> None:
        self.error, self._failed = error, True
        self._give_up()

    def _give_up(self) -> None:
        with self._changed:
            self._over = True
            for part in self._running:
                part.generation.cancellation.cancel()
            self._changed.notify()


class _Part:
    """One generation, whose choices are numbered from *first_choice*."""

    def __init__(self, whole: Several, generation: Generation, first_choice: int) -> None:
        self.generation = generation
        self._whole = whole
        self._first_choice = first_choice
        self._lock = threading.Lock()
        self._n_taken = 0
        self._ended = False

    def follow(self) -> None:
        self.generation.log.subscribe(self._on_change)
        self._on_change()

    def _on_change(self) -> None:
        with self._lock:
            if self._ended:
                return
            events, self._ended = self.generation.log.read(self._n_taken)
            self._n_taken += len(events)
            self._whole.take(self, events, ended=self._ended)

    def numbered(self, event: StreamEvent) -> StreamEvent:
        if self._first_choice and isinstance(event, _Chosen):
            return structs.replace(event, choice=self._first_choice + event.choice)
        return event
