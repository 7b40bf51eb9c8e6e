"""Loads models one after another, in the order in which they were asked for, and unloads those that
are needed least."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import (
    EngineBusy,
    EngineClosed,
    EngineError,
    SpilloverError,
    log_defect,
    shortage,
)
from spillover.runtime.events import Loading
from spillover.runtime.fit.model_shape import GpuMemory
from spillover.runtime.hosting.eviction import Eviction
from spillover.runtime.hosting.load_queue import LoadQueue
from spillover.runtime.hosting.memory import free_memory
from spillover.runtime.hosting.preparer import RETRY_AFTER_S
from spillover.runtime.hosting.residence import ModelSpec, ModelState, Residence, Use
from spillover.runtime.hosting.room import Room
from spillover.runtime.local_engine import LocalEngine

_log = logging.getLogger(__name__)


class ModelHost:
    """The models of a process, each in a worker of its own while it is loaded.

    One thread loads and unloads, and another one makes what models need before that. A model that
    has to make room is unloaded once its running answers have ended; requests that come meanwhile
    wait until it is loaded again, so that nobody waits for ever. Any thread may use the host.
    Close it.
    """

    def __init__(
        self,
        *,
        budget_bytes: int | None = None,
        free_bytes: Callable[[Iterable[int]], int] = free_memory,
        gpu: GpuMemory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*budget_bytes*: most memory of the host for all models together; None: what the device
        has. *free_bytes*: what is free beside the workers with these process ids. *gpu*: what the
        GPUs have at most, as far as that is known."""
        self._clock = clock
        self._changed = threading.Condition()
        self._residences: list[Residence] = []
        self._room = Room(budget_bytes, gpu)
        self._queue = LoadQueue(self._changed, clock)
        self._eviction = Eviction(
            self._changed, self._residences, self._queue, self._room, free_bytes, clock
        )
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add(self, spec: ModelSpec) -> Residence:
        """A model that may be used from now on."""
        residence = Residence(spec)
        with self._changed:
            self._residences.append(residence)
        return residence

    # --- needs ------------------------------------------------------------------------------

    def use(
        self,
        residence: Residence,
        *,
        is_background: bool = False,
        is_patient: bool = False,
        keep_alive_s: float | None = None,
    ) -> Use:
        """A need for the model, which is loaded if it is not; release() it. For the background it
        is loaded after those that others wait for, even if its load has begun, and only into memory
        that is free. *is_patient*: it waits as long as it takes to prepare the model.
        *keep_alive_s*: see KeepAlive. Raises EngineBusy, EngineClosed."""
        use = Use(
            residence,
            is_background=is_background,
            is_patient=is_patient,
            keep_alive_s=keep_alive_s,
            since=self._clock(),
        )
        with self._changed:
            if self._queue.is_closed:
                raise EngineClosed(f"{residence.spec.name} was closed")
            if residence.engine is not None and not residence.is_evicted:
                residence.give(use, self._clock())
                return use
            if not residence.has_room_for(use):
                name, kind = residence.spec.name, " of the background" * is_background
                message = f"too many requests{kind} wait for {name} to be loaded: try again later"
                raise EngineBusy(message, RETRY_AFTER_S)
            residence.waiting.append(use)
            self._queue.add(residence)
            self._queue.preparer.limit_wait(use)
            self._begin(use)
            overtaken = self._queue.overtake(use)
            preparing = self._queue.preparer.yield_to(use)
            self._changed.notify_all()
        if preparing is not None:
            preparing.cancel()
        if overtaken is not None:
            overtaken.close()
        return use

    def _begin(self, use: Use) -> None:
        """Start the thread that loads *use*'s model, if there is none yet. Raises EngineBusy."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="model-host", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no more
            self.release(use)
            raise EngineBusy("no thread is left to load a model", RETRY_AFTER_S) from error
        self._thread = thread

    def use_if_loaded(self, residence: Residence) -> Use | None:
        """The same; None where it would have to wait."""
        with self._changed:
            if residence.engine is None or residence.is_evicted or self._queue.is_closed:
                return None
            return self.use(residence)

    def on_settled(self, use: Use, callback: Callable[[], None]) -> None:
        """Call *callback* once the model is loaded or cannot be; it must be quick."""
        with self._changed:
            use.on_settled = callback
            if use.is_settled:
                callback()

    def wait(self, use: Use, seen: Loading | None, cancellation: Cancellation) -> Loading | None:
        """Wait for news after *seen*; None: *use* is settled, or it was cancelled."""
        with cancellation.subscribed(self._wake), self._changed:
            self._changed.wait_for(
                lambda: cancellation.cancelled or use.is_settled or self._outlook(use) != seen
            )
            if cancellation.cancelled or use.is_settled:
                return None
            return self._outlook(use)

    def release(self, use: Use) -> None:
        """Nobody needs *use* any more."""
        residence = use.residence
        with self._changed:
            if use in residence.waiting:
                residence.waiting.remove(use)
            elif use.engine is not None:
                use.engine = None
                residence.uses.discard(use)
                residence.used_at = self._clock()
            self._changed.notify_all()

    def preload(self, residence: Residence) -> None:
        """Load the model, unless that fails, before somebody asks for it."""
        use = self.use(residence, is_patient=True)
        self.on_settled(use, lambda: self.release(use))

    def unload(self, residence: Residence) -> None:
        """Unload the model as soon as nobody uses it."""
        with self._changed:
            if residence.engine is not None or self._queue.has(residence):
                residence.is_unwanted = True
                self._changed.notify_all()

    def keep_alive(self, residence: Residence, seconds: float) -> None:
        """As if a request of the loaded model had this of its own; see KeepAlive."""
        with self._changed:
            if residence.engine is not None:
                residence.keep_alive(seconds)
                self._changed.notify_all()

    def state(self, residence: Residence) -> ModelState:
        """A snapshot."""
        with self._changed:
            return residence.snapshot(
                self._clock(),
                is_awaited=self._queue.has(residence),
                n_ahead=self._queue.n_ahead(residence),
            )

    def _outlook(self, use: Use) -> Loading:
        residence = use.residence
        n_ahead = self._queue.n_ahead(residence)
        return Loading(model=residence.spec.name, n_ahead=n_ahead, progress=residence.progress)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # --- the thread that loads and unloads --------------------------------------------------

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next; None after the end."""
        with self._changed:
            while not self._queue.is_closed:
                now = self._clock()
                idle = [each for each in self._residences if each.is_idle]
                expiries = [at for each in idle if (at := each.expires_at) is not None]
                for each in idle:
                    at = each.expires_at
                    if each.is_unwanted or (at is not None and at <= now):
                        return partial(self._eviction.unload, each)
                if (next_one := self._queue.next()) is not None:
                    return partial(self._load, next_one)
                self._changed.wait(min(expiries) - now if expiries else None)
        return None

    def _load(self, residence: Residence) -> None:
        failure: SpilloverError | None = None
        engine: LocalEngine | None = None
        preparation = None if residence.is_prepared else residence.spec.preparation
        is_to_prepare = False
        try:
            must_prepare = preparation is not None and preparation.is_needed()
            most_bytes = self._eviction.make_room(residence)  # what prepares it takes memory, too
            is_to_prepare = must_prepare and most_bytes is not None
            if most_bytes is not None and not must_prepare:
                engine = self._start(residence, most_bytes)
                card = residence.card = engine.wait_ready()
                for warning in card.warnings:
                    _log.warning("%s: %s", residence.spec.name, warning)
        except SpilloverError as error:
            failure = error
        except OSError as error:  # such as no descriptor to look for memory with
            why = shortage(error) or error
            failure = EngineError(f"{residence.spec.name} could not be loaded: {why}")
        except Exception as error:  # the thread must go on
            what = f"{residence.spec.name} could not be loaded"
            log_defect(_log, what, error)
            failure = EngineError(f"{what}: internal error ({type(error).__name__})")
        if failure is not None and not (self._queue.is_closed or self._queue.is_overtaken):
            _log.warning("%s could not be loaded: %s", residence.spec.name, failure)
        with self._changed:
            is_overtaken, residence.progress = self._queue.end_load(), None
            residence.is_prepared = False
            residence.failure = failure = None if is_overtaken else failure
            residence.is_unwanted &= failure is None
            is_vain = self._queue.is_closed or is_overtaken
            if engine is not None and failure is None and not is_vain:
                others = [each.held_bytes for each in self._residences if each is not residence]
                residence.take(engine, self._clock())
                self._room.learn(engine.card, others)
                engine = None
            elif residence.engine is not None or failure is not None:
                residence.settle_waiting(self._clock())
            elif residence.waiting and is_to_prepare and not is_overtaken:
                self._queue.preparer.add(residence)
            elif residence.waiting:  # it was overtaken, or somebody came when it was given up
                self._queue.add(residence)
            else:
                residence.is_unwanted = False
            self._changed.notify_all()
        if engine is not None:
            engine.close()

    def _start(self, residence: Residence, most_bytes: int) -> LocalEngine:
        engine = residence.spec.start(most_bytes)
        engine.watch_deaths(lambda: residence.on_death())
        engine.watch_progress(partial(self._note_progress, residence))
        engine.watch_shortages(partial(self._eviction.relieve, residence, engine))
        with self._changed:
            self._queue.starting = engine
            is_vain = self._queue.is_closed or self._queue.is_overtaken
        if is_vain:
            engine.close()
        return engine

    def _note_progress(self, residence: Residence, share: float) -> None:
        with self._changed:
            if self._queue.is_loading(residence):
                residence.progress = share
                self._changed.notify_all()

    def close(self) -> None:
        """End all workers and all waits."""
        with self._changed:
            if self._queue.is_closed:
                return
            end_preparation = self._queue.close()
            engines = [each.engine for each in self._residences if each.engine is not None]
            if self._queue.starting is not None:
                engines.append(self._queue.starting)
            for each in self._residences:
                each.failure = EngineClosed(f"{each.spec.name} was closed")
                waiting, each.waiting = each.waiting, []  # who is told may call release()
                for use in waiting:
                    use.settle(None, each.failure)
            self._changed.notify_all()
            thread = self._thread
        end_preparation()
        for engine in engines:
            engine.close()
        if thread is not None:
            thread.join()
