"""Makes what models need before they can be loaded, while others are loaded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from spillover.runtime.alarms import Alarms
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineBusy, EngineError, SpilloverError, log_defect
from spillover.runtime.hosting.residence import ModelSpec, Residence, Use

RETRY_AFTER_S = 5.0

_log = logging.getLogger(__name__)


class Preparer:
    """One model after another, in the order in which they were added, those for the background
    last; in a thread that ends when there are none. The host's lock guards it, and is held by who
    calls it."""

    def __init__(
        self,
        lock: threading.Condition,
        on_end: Callable[[Residence, SpilloverError | None], None],
        clock: Callable[[], float],
    ) -> None:
        """*on_end* is called, under the lock, with a model that is prepared, or that is to be tried
        again after yield_to(), or with why it cannot be prepared."""
        self._lock = lock
        self._on_end = on_end
        self._alarms = Alarms(clock)
        self._queue: list[Residence] = []
        self._current: Residence | None = None
        self._cancellation = Cancellation()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, residence: Residence) -> None:
        self._queue.append(residence)
        self._queue.sort(key=lambda each: each.is_for_background)
        for use in residence.waiting:
            self.limit_wait(use)
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="model-preparer", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system allows no more
            self._queue.remove(residence)
            no_thread = EngineBusy("no thread is left to prepare a model", RETRY_AFTER_S)
            self._on_end(residence, no_thread)
        else:
            self._thread = thread

    def n_ahead(self, residence: Residence) -> int | None:
        """How many come before it; None: it is not here."""
        there = [*([] if self._current is None else [self._current]), *self._queue]
        return there.index(residence) if residence in there else None

    def limit_wait(self, use: Use) -> None:
        """Refuse *use* when it has waited too long for what is made here, whatever the host does
        meanwhile; unless it waits as long as it takes."""
        preparation = use.residence.spec.preparation
        if use.is_patient or preparation is None or self.n_ahead(use.residence) is None:
            return
        with suppress(RuntimeError):  # the system allows no more threads: it waits on
            self._alarms.at(use.since + preparation.patience_s, partial(self._refuse, use))

    def _refuse(self, use: Use) -> None:
        residence = use.residence
        with self._lock:
            if use in residence.waiting and self.n_ahead(residence) is not None:
                residence.waiting.remove(use)
                use.settle(None, _still_preparing(residence.spec))
                self._lock.notify_all()

    def yield_to(self, use: Use) -> Cancellation | None:
        """What is to be cancelled, without the lock, so that nothing is made for the background
        while *use* waits for another model; None: nothing."""
        current = self._current
        if use.is_background or current is None or current is use.residence:
            return None
        is_vain = bool(current.waiting) and current.is_for_background
        return self._cancellation if is_vain else None

    def close(self) -> Callable[[], None]:
        """Begin nothing more. What is returned ends what is being made, without the lock."""
        self._closed = True
        cancellation, thread = self._cancellation, self._thread

        def end() -> None:
            cancellation.cancel()
            self._alarms.close()
            if thread is not None:
                thread.join()

        return end

    def _run(self) -> None:
        while (residence := self._next()) is not None:
            failure = _made(residence, self._cancellation)
            with self._lock:
                self._current = None
                residence.is_prepared = failure is None
                self._on_end(residence, None if self._cancellation.cancelled else failure)
                self._lock.notify_all()

    def _next(self) -> Residence | None:
        with self._lock:
            while self._queue and not self._closed:
                residence = self._queue.pop(0)
                if residence.waiting:
                    self._current, self._cancellation = residence, Cancellation()
                    return residence
                residence.is_unwanted = False
            self._thread = None
        return None


def _made(residence: Residence, cancellation: Cancellation) -> SpilloverError | None:
    """Make what it needs; why that is not possible."""
    preparation, name = residence.spec.preparation, residence.spec.name
    assert preparation is not None, "it is needed"
    try:
        preparation.make(cancellation)
    except SpilloverError as error:
        if not cancellation.cancelled:
            _log.warning("%s could not be prepared: %s", name, error)
        return error
    except Exception as error:  # others are prepared, too
        what = f"{name} could not be prepared"
        log_defect(_log, what, error)
        return EngineError(f"{what}: internal error ({type(error).__name__})")
    return None


def _still_preparing(spec: ModelSpec) -> EngineBusy:
    assert spec.preparation is not None, "it is waited for"
    return EngineBusy(
        f"{spec.name} was not loaded after {spec.preparation.patience_s:g} s: "
        f"{spec.preparation.what} is still being made, which goes on: try again later, or raise "
        "load_timeout_s",
        RETRY_AFTER_S,
    )
