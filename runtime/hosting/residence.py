"""One model of a host: what its owner wants of it, whether it is loaded, and who needs it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from msgspec import Struct

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import SpilloverError
from spillover.runtime.fit.model_shape import GpuMemory
from spillover.runtime.hosting.memory import held_bytes
from spillover.runtime.local_engine import LocalEngine

ResidenceState: TypeAlias = Literal["unloaded", "loading", "loaded", "unloading", "failed"]
"""loading: from its place in the queue on. unloading: when its last answer has ended. failed: it
could not be loaded; the next request tries again."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What has to be made before a model can be loaded, which may take minutes."""

    what: str
    """For people to read, such as "its conversion"."""
    is_needed: Callable[[], bool]
    """Whether it is missing; quick. Raises ModelError."""
    make: Callable[[Cancellation], None]
    """Ends soon once cancelled. Raises ModelError."""
    patience_s: float
    """Seconds for which a request waits for it; it is made to its end all the same."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How a model is loaded, and how long it stays."""

    name: str
    start: Callable[[int], LocalEngine]
    """Starts its worker, which may take so many bytes of memory. Raises ModelError."""
    preparation: Preparation | None = None
    """None: start() needs nothing but the model's files."""
    needed_bytes: Callable[[GpuMemory | None], DeviceBytes]
    """The least memory with which it is loaded, where so much is free on the GPUs (None: there is
    none). Raises ModelError."""
    keep_alive_s: float | None = None
    """Seconds after its last answer for which it stays loaded; None: until memory is needed."""
    is_pinned: bool = False
    """It is never unloaded to make room, nor after a time."""
    must_fit: bool = True
    """False: it is loaded even if memory seems too small for it alone."""
    max_waiting: int = 32
    """Most requests that wait for it to be loaded."""
    max_background: int = 16
    """The same of the background, which takes nobody's place."""


class ModelState(Struct, frozen=True, kw_only=True):
    """A snapshot for people and clients."""

    state: ResidenceState
    card: ModelCard | None = None
    """Facts of the last time it was loaded."""
    held_bytes: int = 0
    """On all devices together."""
    n_answers: int = 0
    """Answers and questions that hold it."""
    n_waiting: int = 0
    n_ahead: int = 0
    """Models that are loaded before it."""
    progress: float | None = None
    expires_in_s: float | None = None
    """Seconds until it is unloaded if nobody needs it; None: it stays."""
    is_pinned: bool = False
    error: str = ""
    """Why it could not be loaded."""


class Use:
    """Somebody's need for a model. It is settled once *engine* or *error* is set; until it is
    released the model is not unloaded."""

    def __init__(
        self,
        residence: Residence,
        *,
        is_background: bool = False,
        is_patient: bool = False,
        keep_alive_s: float | None = None,
        since: float = 0.0,
    ) -> None:
        self.residence = residence
        self.is_patient = is_patient
        """It waits for as long as the model is prepared."""
        self.since = since
        """When it began, by the host's clock."""
        self.keep_alive_s = keep_alive_s
        """See KeepAlive; None: it changes nothing."""
        self.is_background = is_background
        """It must not cost others their model, nor their place in the queue."""
        self.engine: LocalEngine | None = None
        self.error: SpilloverError | None = None
        self.must_yield = Cancellation()
        """Set when others wait for the memory of its model, and it is of the background."""
        self.on_settled: Callable[[], None] | None = None
        """Called once, under the host's lock; it must be quick."""

    @property
    def is_settled(self) -> bool:
        return self.engine is not None or self.error is not None

    def settle(self, engine: LocalEngine | None, error: SpilloverError | None) -> None:
        self.engine, self.error = engine, error
        if self.on_settled is not None:
            self.on_settled()


class Residence:
    """The host's lock guards it."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.keep_alive_s = spec.keep_alive_s
        """The owner's or, as long as it is loaded, that of the last request that had its own."""
        self.engine: LocalEngine | None = None
        """The loaded one."""
        self._last_card: ModelCard | None = None
        self.failure: SpilloverError | None = None
        self.progress: float | None = None
        self.uses: set[Use] = set()
        """Of the loaded engine."""
        self.waiting: list[Use] = []
        self.used_at = 0.0
        self.is_prepared = False
        """What it needs was made for the load that follows."""
        self.is_evicted = False
        """Another model needs its memory: nobody gets it any more."""
        self.is_unwanted = False
        """Somebody asked to unload it: that is done as soon as nobody uses it."""
        self.on_death: Callable[[], None] = lambda: None

    @property
    def card(self) -> ModelCard | None:
        """Facts of the loaded model, whose next worker may have another layout, or of the last
        one."""
        engine = self.engine
        return self._last_card if engine is None else engine.card

    @card.setter
    def card(self, card: ModelCard) -> None:
        self._last_card = card

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and not self.uses and not self.waiting

    def has_room_for(self, use: Use) -> bool:
        """Whether *use* may wait: the background and all others are counted apart."""
        n_waiting = sum(each.is_background == use.is_background for each in self.waiting)
        spec = self.spec
        return n_waiting < (spec.max_background if use.is_background else spec.max_waiting)

    @property
    def is_used(self) -> bool:
        """Whether more than the background uses it."""
        return any(not use.is_background for use in self.uses)

    @property
    def is_for_background(self) -> bool:
        """Whether nobody waits for it but the background."""
        return all(use.is_background for use in self.waiting)

    @property
    def held_bytes(self) -> DeviceBytes:
        if self.engine is None or self.card is None:
            return DeviceBytes()
        return held_bytes(self.card)

    @property
    def expires_at(self) -> float | None:
        """When it is unloaded if nobody needs it until then."""
        if self.engine is None or self.keep_alive_s is None or self.spec.is_pinned:
            return None
        return self.used_at + self.keep_alive_s

    def snapshot(self, now: float, *, is_awaited: bool, n_ahead: int) -> ModelState:
        """As it is now. *is_awaited*: it is being loaded, or will be after *n_ahead* others."""
        at = self.expires_at
        return ModelState(
            state=self._state(is_awaited=is_awaited),
            card=self.card,
            held_bytes=self.held_bytes.total,
            n_answers=len(self.uses),
            n_waiting=len(self.waiting),
            n_ahead=n_ahead,
            progress=self.progress,
            expires_in_s=None if at is None else max(at - now, 0.0),
            is_pinned=self.spec.is_pinned,
            error="" if self.failure is None else str(self.failure),
        )

    def _state(self, *, is_awaited: bool) -> ResidenceState:
        if self.engine is not None:
            return "unloading" if self.is_evicted or self.is_unwanted else "loaded"
        if is_awaited:
            return "loading"
        return "unloaded" if self.failure is None else "failed"

    def take(self, engine: LocalEngine, now: float) -> None:
        """It is loaded, and all that wait have it."""
        self.engine, self.used_at = engine, now
        self.keep_alive_s = self.spec.keep_alive_s
        self.settle_waiting(now)

    def keep_alive(self, seconds: float) -> None:
        """See KeepAlive."""
        self.keep_alive_s = None if math.isinf(seconds) else seconds

    def give(self, use: Use, now: float) -> None:
        """Let *use* have the loaded engine."""
        assert self.engine is not None, "it is loaded"
        self.uses.add(use)
        self.used_at = now
        if use.keep_alive_s is not None:
            self.keep_alive(use.keep_alive_s)
        use.settle(self.engine, None)

    def settle_waiting(self, now: float, failure: SpilloverError | None = None) -> None:
        """Give all that wait the engine, or the failure: this one, or that of the last load."""
        waiting, self.waiting = self.waiting, []
        for use in waiting:
            if self.engine is not None:
                self.give(use, now)
            else:
                use.settle(None, failure or self.failure)
