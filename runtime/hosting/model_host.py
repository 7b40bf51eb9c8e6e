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
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.errors import (
    EngineBusy,
    EngineClosed,
    EngineError,
    NoRoomForModel,
    SpilloverError,
    log_defect,
)
from spillover.runtime.events import Loading
from spillover.runtime.fit.model_shape import GpuMemory
from spillover.runtime.hosting.memory import free_memory
from spillover.runtime.hosting.preparer import RETRY_AFTER_S, Preparer
from spillover.runtime.hosting.residence import (
    ModelSpec,
    ModelState,
    Residence,
    Use,
)
from spillover.runtime.hosting.room import (
    Room,
    can_stay_beside,
    free_beside,
    idle_longest,
    loaded,
    to_unload,
)
from spillover.runtime.local_engine import LocalEngine

_GIVE_BACK_S = 1.0
"""Within this, workers have dropped what they can make again: they do so between two steps."""

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
        self._room = Room(budget_bytes, gpu)
        self._free_bytes = free_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._residences: list[Residence] = []
        self._queue: list[Residence] = []
        self._loading: Residence | None = None
        self._starting: LocalEngine | None = None
        self._preparer = Preparer(self._changed, self._end_preparation)
        self._is_overtaken = False
        """Others wait for another model than the one that is being loaded for the background."""
        self._thread: threading.Thread | None = None
        self._closed = False

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
            if self._closed:
                raise EngineClosed(f"{residence.spec.name} was closed")
            if residence.engine is not None and not residence.is_evicted:
                residence.give(use, self._clock())
                return use
            if not residence.has_room_for(use):
                name, kind = residence.spec.name, " of the background" * is_background
                message = f"too many requests{kind} wait for {name} to be loaded: try again later"
                raise EngineBusy(message, RETRY_AFTER_S)
            residence.waiting.append(use)
            self._enqueue(residence)
            self._begin(use)
            overtaken, preparing = self._overtake(use), self._preparer.yield_to(use)
            self._changed.notify_all()
        if preparing is not None:
            preparing.cancel()
        if overtaken is not None:
            overtaken.close()
        return use

    def _overtake(self, use: Use) -> LocalEngine | None:
        """Give up the load that *use* would wait for, if only the background needs it; the engine
        to be closed then, outside of the lock."""
        loading = self._loading
        if loading is None or loading is use.residence or use.is_background:
            return None
        if not loading.waiting or not loading.is_for_background:
            return None
        self._is_overtaken = True
        return self._starting

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

    def _enqueue(self, residence: Residence) -> None:
        if not self._is_awaited(residence):
            self._queue.append(residence)
        self._queue.sort(key=lambda each: each.is_for_background)

    def use_if_loaded(self, residence: Residence) -> Use | None:
        """The same; None where it would have to wait."""
        with self._changed:
            if residence.engine is None or residence.is_evicted or self._closed:
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
            if residence.engine is not None or self._is_awaited(residence):
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
                is_awaited=self._is_awaited(residence),
                n_ahead=self._n_ahead(residence),
            )

    def _is_awaited(self, residence: Residence) -> bool:
        is_here = residence is self._loading or residence in self._queue
        return is_here or self._preparer.n_ahead(residence) is not None

    def _n_ahead(self, residence: Residence) -> int:
        if residence in self._queue:
            return self._queue.index(residence) + (self._loading is not None)
        return self._preparer.n_ahead(residence) or 0

    def _outlook(self, use: Use) -> Loading:
        residence = use.residence
        n_ahead = self._n_ahead(residence)
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
            while not self._closed:
                now = self._clock()
                idle = [each for each in self._residences if each.is_idle]
                expiries = [at for each in idle if (at := each.expires_at) is not None]
                expiries += self._preparer.refuse_impatient(now)
                for each in idle:
                    at = each.expires_at
                    if each.is_unwanted or (at is not None and at <= now):
                        return partial(self._unload, each)
                while self._queue:
                    self._loading = self._queue.pop(0)
                    if self._loading.waiting:
                        return partial(self._load, self._loading)
                    self._loading.is_unwanted = False
                self._loading = None
                self._changed.wait(min(expiries) - now if expiries else None)
        return None

    def _end_preparation(self, residence: Residence, failure: SpilloverError | None) -> None:
        if failure is not None:
            residence.failure, residence.is_unwanted = failure, False
            residence.settle_waiting(self._clock())
        elif residence.waiting:
            self._enqueue(residence)
        else:
            residence.is_unwanted = False

    def _load(self, residence: Residence) -> None:
        failure: SpilloverError | None = None
        engine: LocalEngine | None = None
        preparation = None if residence.is_prepared else residence.spec.preparation
        is_to_prepare = False
        try:
            must_prepare = preparation is not None and preparation.is_needed()
            most_bytes = self._make_room(residence)  # what prepares it takes memory, too
            is_to_prepare = must_prepare and most_bytes is not None
            if most_bytes is not None and not must_prepare:
                engine = self._start(residence, most_bytes)
                card = residence.card = engine.wait_ready()
                for warning in card.warnings:
                    _log.warning("%s: %s", residence.spec.name, warning)
        except SpilloverError as error:
            failure = error
        except Exception as error:  # the thread must go on
            what = f"{residence.spec.name} could not be loaded"
            log_defect(_log, what, error)
            failure = EngineError(f"{what}: internal error ({type(error).__name__})")
        if failure is not None and not (self._closed or self._is_overtaken):
            _log.warning("%s could not be loaded: %s", residence.spec.name, failure)
        with self._changed:
            is_overtaken, self._is_overtaken = self._is_overtaken, False
            self._loading = self._starting = residence.progress = None
            residence.is_prepared = False
            residence.failure = failure = None if is_overtaken else failure
            residence.is_unwanted &= failure is None
            if engine is not None and failure is None and not (self._closed or is_overtaken):
                others = [each.held_bytes for each in self._residences if each is not residence]
                residence.take(engine, self._clock())
                self._room.learn(engine.card, others)
                engine = None
            elif residence.engine is not None or failure is not None:
                residence.settle_waiting(self._clock())
            elif residence.waiting and is_to_prepare and not is_overtaken:
                self._preparer.add(residence)
            elif residence.waiting:  # it was overtaken, or somebody came when it was given up
                self._enqueue(residence)
            else:
                residence.is_unwanted = False
            self._changed.notify_all()
        if engine is not None:
            engine.close()

    def _start(self, residence: Residence, most_bytes: int) -> LocalEngine:
        engine = residence.spec.start(most_bytes)
        engine.watch_deaths(lambda: residence.on_death())
        engine.watch_progress(partial(self._note_progress, residence))
        engine.watch_shortages(partial(self._relieve, residence, engine))
        with self._changed:
            self._starting = engine
            is_vain = self._closed or self._is_overtaken
        if is_vain:
            engine.close()
        return engine

    def _note_progress(self, residence: Residence, share: float) -> None:
        with self._changed:
            if residence is self._loading:
                residence.progress = share
                self._changed.notify_all()

    def _relieve(self, residence: Residence, engine: LocalEngine, n_bytes: int) -> None:
        """The worker of *residence* lacks memory. In the reader's thread."""

        def relieve() -> None:
            if not self._get_back(residence, n_bytes):
                self._unload_idle(residence)
            engine.answer_shortage()

        try:
            threading.Thread(target=relieve, name="relief", daemon=True).start()
        except RuntimeError:  # the system allows no more
            engine.answer_shortage()

    def _get_back(self, residence: Residence, n_bytes: int) -> bool:
        """Let the other models drop what they can make again; whether that freed so much."""
        with self._changed:
            others = [each.engine for each in self._residences if each is not residence]
        before = self._free_bytes(())
        for other in filter(None, others):
            other.give_back(n_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not any(others), _GIVE_BACK_S)
        return self._free_bytes(()) - before >= n_bytes

    def _unload_idle(self, residence: Residence) -> None:
        """The model that is idle and was used least recently makes room for *residence*."""
        with self._changed:
            victim = idle_longest(each for each in self._residences if each is not residence)
        if victim is not None:
            line = "%s is unloaded: memory is short while %s answers"
            _log.warning(line, victim.spec.name, residence.spec.name)
            self._unload(victim)

    def _make_room(self, residence: Residence) -> int | None:
        """Unload others until the model fits; the bytes of the host that it may take then. None:
        nobody waits for it any more. Raises NoRoomForModel, EngineClosed."""
        needed = self._needed(residence)
        try:
            while True:
                with self._changed:
                    held = loaded(self._residences)
                on_host = free_beside(held, self._free_bytes)
                with self._changed:
                    if self._closed:
                        raise EngineClosed(f"{residence.spec.name} was closed")
                    if not residence.waiting:
                        return None
                    free = self._room.beside(self._residences, on_host)
                    missing, victim = needed.beyond(free), None
                    if missing.total:
                        victim = to_unload(self._residences, residence, missing)
                    if victim is None:
                        return max(free.host, needed.host)
                    if residence.is_for_background:
                        no_room = NoRoomForModel(residence.spec.name, missing.total)
                        residence.settle_waiting(self._clock(), no_room)
                        return None
                    victim.is_evicted = True
                    self._changed.notify_all()
                    uses = list(victim.uses)
                    if uses and (victim.is_used or all(u.must_yield.cancelled for u in uses)):
                        now = self._clock()
                        ends = self._preparer.refuse_impatient(now)
                        self._changed.wait(min(ends) - now if ends else None)
                        continue
                for use in uses:  # nobody waits for them; not under the lock, as others are told
                    use.must_yield.cancel()
                self._unload(victim)
        finally:
            self._spare()

    def _needed(self, residence: Residence) -> DeviceBytes:
        """The least memory with which the model is loaded: beside all others, where they can stay.
        Raises ModelError."""
        with self._changed:
            gpu = self._room.gpu_for(self._residences, residence)
            now, held = self._room.gpu_now(self._residences), loaded(self._residences)
        least = residence.spec.needed_bytes(gpu)
        if now == gpu:
            return least
        beside = residence.spec.needed_bytes(now)
        on_host = free_beside(held, self._free_bytes)
        with self._changed:
            free = self._room.beside(self._residences, on_host)
        return beside if can_stay_beside(beside, least, free) else least

    def _spare(self) -> None:
        """Let those stay that were to make room and are still here."""
        with self._changed:
            for each in self._residences:
                if each.is_evicted and each.engine is not None:
                    each.is_evicted = False
                    if each in self._queue:
                        self._queue.remove(each)
                    each.settle_waiting(self._clock())
            self._changed.notify_all()

    def _unload(self, residence: Residence) -> None:
        with self._changed:
            engine = residence.engine
            if engine is None or residence.uses:
                return
            residence.card, residence.engine = engine.card, None
            residence.is_evicted = residence.is_unwanted = False
            self._changed.notify_all()
        engine.close()

    def close(self) -> None:
        """End all workers and all waits."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            engines = [each.engine for each in self._residences if each.engine is not None]
            if self._starting is not None:
                engines.append(self._starting)
            for each in self._residences:
                each.failure = EngineClosed(f"{each.spec.name} was closed")
                waiting, each.waiting = each.waiting, []  # who is told may call release()
                for use in waiting:
                    use.settle(None, each.failure)
            self._changed.notify_all()
            thread, end_preparation = self._thread, self._preparer.close()
        end_preparation()
        for engine in engines:
            engine.close()
        if thread is not None:
            thread.join()
