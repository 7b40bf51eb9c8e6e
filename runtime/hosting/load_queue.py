"""The models that somebody waits for, and which of them is loaded next."""

from __future__ import annotations

import threading
from collections.abc import Callable

from spillover.runtime.errors import SpilloverError
from spillover.runtime.hosting.preparer import Preparer
from spillover.runtime.hosting.residence import Residence, Use
from spillover.runtime.local_engine import LocalEngine


class LoadQueue:
    """One model is being loaded, its preparer has others, and the rest follow in the order in which
    they were asked for, those for the background last. The host's lock guards it, and is held by
    who calls it."""

    def __init__(self, lock: threading.Condition, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queue: list[Residence] = []
        self._loading: Residence | None = None
        self.preparer = Preparer(lock, self._end_preparation, clock)
        self.starting: LocalEngine | None = None
        """Of the model that is being loaded, once its worker was started."""
        self.is_overtaken = False
        """Others wait for another model than the one that is being loaded for the background."""
        self.is_closed = False

    def close(self) -> Callable[[], None]:
        """Load and prepare nothing more; see Preparer.close()."""
        self.is_closed = True
        return self.preparer.close()

    def add(self, residence: Residence) -> None:
        """Somebody waits for it, perhaps beside others."""
        if not self.has(residence):
            self._queue.append(residence)
        self._queue.sort(key=lambda each: each.is_for_background)

    def remove(self, residence: Residence) -> None:
        """It stays loaded, so that nobody waits for it any more."""
        if residence in self._queue:
            self._queue.remove(residence)

    def has(self, residence: Residence) -> bool:
        """Whether it is prepared or loaded, or will be."""
        is_here = self.is_loading(residence) or residence in self._queue
        return is_here or self.preparer.n_ahead(residence) is not None

    def is_loading(self, residence: Residence) -> bool:
        return residence is self._loading

    def n_ahead(self, residence: Residence) -> int:
        """How many are loaded, or prepared, before it."""
        if residence in self._queue:
            return self._queue.index(residence) + (self._loading is not None)
        return self.preparer.n_ahead(residence) or 0

    def overtake(self, use: Use) -> LocalEngine | None:
        """Give up the load that *use* would wait for, if only the background needs it; the engine
        to be closed then, outside of the lock."""
        loading = self._loading
        if loading is None or loading is use.residence or use.is_background:
            return None
        if not loading.waiting or not loading.is_for_background:
            return None
        self.is_overtaken = True
        return self.starting

    def next(self) -> Residence | None:
        """The model that is loaded from now on until end_load(); None: nobody waits for one."""
        while self._queue:
            self._loading = self._queue.pop(0)
            if self._loading.waiting:
                return self._loading
            self._loading.is_unwanted = False
        self._loading = None
        return None

    def end_load(self) -> bool:
        """Whether it was given up for another model."""
        is_overtaken, self.is_overtaken = self.is_overtaken, False
        self._loading = self.starting = None
        return is_overtaken

    def _end_preparation(self, residence: Residence, failure: SpilloverError | None) -> None:
        if failure is not None:
            residence.failure, residence.is_unwanted = failure, False
            residence.settle_waiting(self._clock())
        elif residence.waiting:
            self.add(residence)
        else:
            residence.is_unwanted = False
