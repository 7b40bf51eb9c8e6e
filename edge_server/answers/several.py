"""Several generations as one answer, whose choices are numbered on from prompt to prompt."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from msgspec.structs import replace

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.answers.event_log import EventSource
from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.answers.service import Generation, Service, failure_of
from spillover.runtime.embedding_request import EngineRequest
from spillover.runtime.errors import EngineBusy
from spillover.runtime.events import Delta, Finished, ReasoningDelta, ToolCallDelta

_Chosen: TypeAlias = Delta | ReasoningDelta | ToolCallDelta | Finished


class Several(EventSource):
    """From outside one generation.

    As many parts run at a time as the engine has slots; a thread begins the next one when one has
    ended. What the engine raises before the first event of all is the refusal of the whole.
    """

    def __init__(
        self,
        service: Service,
        requests: Sequence[EngineRequest],
        options: RouteOptions,
        model: ServedModel | None = None,
    ) -> None:
        super().__init__(options.id)
        self._service = service
        self._options = options
        self._model = model or service.models.default
        self._changed = threading.Condition()
        self._waiting = deque(requests)
        self._n_begun = 0
        self._running: set[_Part] = set()
        self._over = False  # no part begins any more
        self._failed = False  # events of the other parts are dropped
        self.cancellation.subscribe(self._give_up)
        threading.Thread(target=self._begin_all, name="several", daemon=True).start()

    def _begin(self, request: EngineRequest) -> None:
        options = replace(self._options, id=f"{self._options.id}-{self._n_begun}")
        part = _Part(self, self._service.start(request, options, self._model), self._n_begun)
        with self._changed:
            self._running.add(part)
            if self._over:
                part.generation.cancellation.cancel()
        part.generation.is_decided(None)
        refusal = part.generation.refusal()
        if refusal is not None:
            with self._changed:
                self._running.discard(part)
            raise refusal
        self._n_begun += request.n
        part.follow()

    def _begin_all(self) -> None:
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

    def _next(self) -> EngineRequest | None:
        """The next request, once there is a slot for it; None after the last."""
        n_slots = self._model.engine.card.n_parallel
        with self._changed:
            self._changed.wait_for(lambda: self._over or len(self._running) < n_slots)
            return self._waiting.popleft() if self._waiting and not self._over else None

    def _wait_for_an_end(self, refused: EngineRequest) -> bool:
        """Others fill the queue: wait until a part of ours ends. False if none is running."""
        with self._changed:
            if not self._running:
                return False
            self._waiting.appendleft(refused)
            n = len(self._running)
            self._changed.wait_for(lambda: len(self._running) < n)
            return True

    def add(self, part: _Part, events: list[StreamEvent], *, ended: bool) -> None:
        """The next events of *part*, in the thread that writes its log."""
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
                if self.log.has_begun:
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

    def follow(self) -> None:
        self.generation.log.subscribe(self._take, at_once=True)

    def _take(self) -> None:
        """In the writer's thread, under the lock of its log."""
        events, ended = self.generation.log.take()
        self._whole.add(self, events, ended=ended)

    def numbered(self, event: StreamEvent) -> StreamEvent:
        if self._first_choice and isinstance(event, _Chosen):
            return replace(event, choice=self._first_choice + event.choice)
        return event
