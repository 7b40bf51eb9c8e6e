"""Starts generations, finds and cancels them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.answers.event_log import EventSource
from spillover.edge_server.answers.served_models import ServedModel, ServedModels
from spillover.edge_server.wire.errors import CONTEXT_LENGTH_EXCEEDED
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.embedding_request import EmbeddingRequest, EngineRequest
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    EngineClosed,
    EngineError,
    SpilloverError,
    log_defect,
)
from spillover.runtime.events import Finished

CLOSE_TIMEOUT_S = 5.0
RETRY_AFTER_S = 2.0

_log = logging.getLogger(__name__)


class Generation(EventSource):
    """One running answer."""

    def __init__(self, options: RouteOptions) -> None:
        super().__init__(options.id)
        self.owner = options.owner
        """Who asked for it; nobody else may steer it."""
        self.timed_out = False


class Service:
    """Owns the generations. One producer thread for each iterates the engine and writes the log."""

    def __init__(
        self,
        engine: TextEngine,
        router: Router,
        *,
        max_answers: int,
        max_generation_s: float,
        models: ServedModels | None = None,
    ) -> None:
        """*models*: all that may be asked for, *engine* among them; None: only *engine*."""
        self.engine = engine
        self.router = router
        self.models = models or ServedModels(ServedModel(engine, router.local))
        self._max_answers = max_answers
        self._max_generation_s = max_generation_s
        self._lock = threading.Lock()
        self._running: dict[Generation, threading.Thread] = {}
        self._closed = False
        self._at_close: list[Callable[[], object]] = []

    def start(
        self, request: EngineRequest, options: RouteOptions, model: ServedModel | None = None
    ) -> Generation:
        """Begin an answer of *model*, or of the default one, without waiting for the engine: what
        it raises before its first event is the generation's refusal(). Raises EngineBusy or
        EngineClosed."""
        generation = Generation(options)
        args = (generation, request, options, model or self.models.default)
        thread = threading.Thread(target=self._produce, args=args, name="generation", daemon=True)
        with self._lock:
            if self._closed:
                raise EngineClosed("the server is shutting down")
            if len(self._running) >= self._max_answers:
                raise EngineBusy("too many answers are running: try again later", RETRY_AFTER_S)
            self._running[generation] = thread
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no more
            self._forget(generation)
            raise EngineBusy("no thread is left for another answer", RETRY_AFTER_S) from error
        return generation

    def _produce(
        self,
        generation: Generation,
        request: EngineRequest,
        options: RouteOptions,
        model: ServedModel,
    ) -> None:
        def time_out() -> None:
            generation.timed_out = True
            generation.cancellation.cancel()

        timer = threading.Timer(self._max_generation_s, time_out)
        timer.daemon = True
        log, cut_off = generation.log, False
        try:
            timer.start()
            with closing(self._events(request, options, model, generation.cancellation)) as events:
                for event in events:
                    if generation.timed_out and _is_cancelled(event):
                        cut_off = True
                    else:
                        log.append(event)
        except Exception as error:
            generation.error = error
            if log.has_begun:
                log.append(failure_of(error))
        finally:
            timer.cancel()
            if cut_off and generation.error is None:
                message = f"ended after {self._max_generation_s:g} s"
                log.append(Failed(code="timeout", message=message))
            log.close()
            self._forget(generation)

    def _events(
        self,
        request: EngineRequest,
        options: RouteOptions,
        model: ServedModel,
        cancellation: Cancellation,
    ) -> Generator[StreamEvent]:
        """Vectors and scores are always made on the device: another model's cannot be compared."""
        if isinstance(request, EmbeddingRequest):
            return model.engine.embed(request, cancellation)
        return self.router.stream(request, options, cancellation, model.side)

    def _forget(self, generation: Generation) -> None:
        with self._lock:
            self._running.pop(generation, None)

    def running(self, answer_id: str, owner: str) -> Generation | None:
        """The running answer of *owner* with this id."""
        with self._lock:
            return next((g for g in self._running if g.id == answer_id and g.owner == owner), None)

    @property
    def n_running(self) -> int:
        return len(self._running)

    def at_close(self, callback: Callable[[], object]) -> None:
        """Call *callback* when the service has closed."""
        self._at_close.append(callback)

    def close(self) -> None:
        """Cancel everything and give the producers a little time to end."""
        with self._lock:
            self._closed = True
            running = dict(self._running)
        for generation in running:
            generation.cancellation.cancel()
        end = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in running.values():
            thread.join(max(0.0, end - time.monotonic()))
        for callback in self._at_close:
            callback()


def _is_cancelled(event: StreamEvent) -> bool:
    return isinstance(event, Finished) and event.reason == "cancelled"


def failure_of(error: Exception) -> Failed:
    """An error after the first event, as an event; of our own defects only the type."""
    if isinstance(error, ContextOverflow):
        return Failed(code=CONTEXT_LENGTH_EXCEEDED, message=str(error))
    if isinstance(error, EngineError):
        return Failed(code="engine_error", message=str(error))
    if isinstance(error, SpilloverError):
        return Failed(code="invalid_request", message=str(error))
    log_defect(_log, "an answer broke off", error)
    return Failed(code="internal_error", message=f"internal error ({type(error).__name__})")
