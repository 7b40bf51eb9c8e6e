"""Events on their way from the loop to the clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from spillover.runtime.events import Delta, EngineEvent, ReasoningDelta, ToolCallDelta

Emit: TypeAlias = Callable[[list[tuple[int, EngineEvent]]], None]

HOLD_S = 0.004
"""Text may wait this long for the text of the next steps. A small model generates a token in less
than a millisecond: sending each alone would cost more than generating it, and the delay is
imperceptible."""


class Outbox:
    """(job id, event) pairs; those of quick steps are sent together. Belongs to the loop."""

    def __init__(self, emit: Emit, clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._events: list[tuple[int, EngineEvent]] = []
        self._is_urgent = False
        self._since = 0.0

    def add(self, job_id: int, event: EngineEvent) -> None:
        if not self._events:
            self._since = self._clock()
        self._events.append((job_id, event))
        if not isinstance(event, Delta | ReasoningDelta | ToolCallDelta):
            self._is_urgent = True

    def flush(self) -> None:
        """Send everything that has been added."""
        if self._events:
            events, self._events = self._events, []
            self._is_urgent = False
            self._emit(events)

    def after_step(self, next_step_s: float | None) -> None:
        """Send everything unless all of it may wait for the next step, which takes *next_step_s*
        (None: unknown, or no step follows)."""
        if not self._events:
            return
        may_wait = (
            next_step_s is not None
            and not self._is_urgent
            and self._clock() - self._since + next_step_s < HOLD_S
        )
        if not may_wait:
            self.flush()
