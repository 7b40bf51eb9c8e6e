"""Requests whose workers died, remembered by their content."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import msgspec

from spillover.runtime.embedding_request import EngineRequest
from spillover.runtime.errors import DeadlyRequest
from spillover.runtime.events import (
    Delta,
    Embedded,
    EngineEvent,
    Finished,
    ReasoningDelta,
    ToolCallDelta,
)
from spillover.runtime.request import GenerationRequest
from spillover.runtime.worker.supervision.ticket import Ticket

V = TypeVar("V")

SUSPECT_DEATHS = 2
"""A request that was running at this many deaths may have caused them."""

HARMLESS_TOKENS = 64
"""Whoever generated so many since the last death did not cause it: a cause comes back at once."""

MAX_DEATHS = 6
"""One that was running at more is refused, whoever caused them."""

REMEMBERED_S = 1_800.0
MOST_REMEMBERED = 512


class Suspects:
    """Which requests were running when a worker died: the one that is to blame is refused, the
    others go on.

    When there are several suspects, they are given to the next worker one after the other: one
    that is *on trial* when it dies is to blame. A trial ends with the first text; from the third
    death on, with the answer. A request that comes again, with whatever seed, is the same. The
    dispatcher's lock guards all of this.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self.on_trial: Ticket | None = None

    def may_run(self, ticket: Ticket) -> bool:
        """Whether *ticket* may be given to a worker now; it may be on trial from now on."""
        if self._n_deaths(ticket) < SUSPECT_DEATHS:
            return True
        if self.on_trial is None:
            self.on_trial = ticket
        return self.on_trial is ticket

    def is_acquitted(self, event: EngineEvent) -> bool:
        """Whether the trial ends with *event* of the ticket on trial."""
        if isinstance(event, Finished):
            return True
        is_progress = isinstance(event, Delta | ReasoningDelta | ToolCallDelta | Embedded)
        return is_progress and self.on_trial is not None and self._n_deaths(self.on_trial) < 3

    def died(self, running: list[Ticket]) -> list[Ticket]:
        """Count a death for all that were *running*; those that are to blame are refused."""
        contents = {_digest(ticket.request): ticket for ticket in running}
        for content, ticket in contents.items():
            has_gone_on = ticket.n_generated - ticket.n_at_death >= HARMLESS_TOKENS
            n_before = 0 if has_gone_on else self._n_deaths(ticket)
            _note(self._deaths, content, (n_before + 1, self._clock()))
            ticket.n_at_death = ticket.n_generated
        suspects = [c for c, t in contents.items() if self._n_deaths(t) >= SUSPECT_DEATHS]
        guilty = {c for c, t in contents.items() if self._n_deaths(t) > MAX_DEATHS}
        if self.on_trial is not None and self.on_trial in running:
            guilty.add(_digest(self.on_trial.request))
        elif len(suspects) == 1:
            guilty.update(suspects)
        self.on_trial = None
        for content in guilty:
            _note(self._refused, content, self._clock())
        return [ticket for ticket in running if _digest(ticket.request) in guilty]

    def clear(self, ticket: Ticket) -> None:
        """It came to its end."""
        if self._deaths:
            self._deaths.pop(_digest(ticket.request), None)

    def check(self, ticket: Ticket) -> None:
        """Raise DeadlyRequest for a request that is refused."""
        at = self._refused.get(_digest(ticket.request)) if self._refused else None
        if at is not None and self._clock() - at < REMEMBERED_S:
            raise deadly()

    def _n_deaths(self, ticket: Ticket) -> int:
        if not self._deaths:
            return 0
        n, at = self._deaths.get(_digest(ticket.request), (0, 0.0))
        return n if self._clock() - at < REMEMBERED_S else 0


def deadly() -> DeadlyRequest:
    minutes = REMEMBERED_S / 60
    return DeadlyRequest(
        "the worker has died while it ran this request, more than once: the request is refused "
        f"for {minutes:g} minutes"
    )


_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def _digest(request: EngineRequest) -> bytes:
    if isinstance(request, GenerationRequest):
        sampling = msgspec.structs.replace(request.sampling, seed=None)
        request = msgspec.structs.replace(request, sampling=sampling)
    content = _encode(request)
    return hashlib.blake2b(content, digest_size=16).digest()


def _note(notes: OrderedDict[bytes, V], digest: bytes, value: V) -> None:
    notes[digest] = value
    notes.move_to_end(digest)
    if len(notes) > MOST_REMEMBERED:
        notes.popitem(last=False)
