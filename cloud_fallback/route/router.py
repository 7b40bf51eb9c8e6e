"""Local first, cloud when needed, one stream: routes each answer between the writers there are."""

from __future__ import annotations

import threading
from collections.abc import Generator

from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.privacy.consent import PendingConsent, Reply
from spillover.cloud_fallback.route.journey import Journey
from spillover.cloud_fallback.route.parts import Parts
from spillover.cloud_fallback.route.routing import Routing, allowed
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.route.trip import Trip
from spillover.cloud_fallback.spending.journal import HandoffRecord
from spillover.cloud_fallback.spending.statement import Line
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import Engine
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest


class Router:
    """One for all answers of a device. May be used from any thread."""

    def __init__(self, local: Engine, routing: Routing, parts: Parts | None) -> None:
        """*routing*: the owner's wishes. *parts* None: there is no cloud, all is local."""
        self._local = local
        self._routing = routing
        self._parts = parts
        self._lock = threading.Lock()
        self._journeys: dict[str, Journey] = {}

    def stream(
        self,
        request: GenerationRequest,
        options: RouteOptions | None = None,
        cancellation: Cancellation | None = None,
    ) -> Generator[StreamEvent]:
        """Yield the events of one answer, whoever writes it; close() or *cancellation* ends it.

        Raises InvalidRequest or EngineBusy before the first event, EngineError at any time.
        """
        options, cancellation = options or RouteOptions(), cancellation or Cancellation()
        may = allowed(self._routing, options.routing)
        parts = self._parts
        if parts is None or not may.may_leave or request.n > 1:
            if not may.local:
                raise InvalidRequest(_no_cloud(request), "spillover.only")
            yield from self._local.stream(request, cancellation)
            return
        journey = Journey(Trip(parts, request, options, may, cancellation))
        with self._lock:
            self._journeys[options.id] = journey
        try:
            yield from journey.run()
        finally:
            with self._lock:
                self._journeys.pop(options.id, None)

    def hand_over(self, answer_id: str) -> bool:
        """The user wants the cloud to go on with a running answer; False: there is none that the
        local model is writing and that may leave the device."""
        with self._lock:
            journey = self._journeys.get(answer_id)
        leg = journey.leg if journey is not None else None
        if leg is None:
            return False
        leg.watch.ask()
        return True

    def keep_local(self, answer_id: str) -> bool:
        """The user wants a running answer to stay on the device from now on."""
        with self._lock:
            known = answer_id in self._journeys
        if known and self._parts is not None:
            self._parts.trust.consent.keep_local(answer_id)
        return known

    def pending_consents(self) -> list[PendingConsent]:
        """The questions that wait for the user."""
        return [] if self._parts is None else self._parts.trust.consent.pending()

    def consent(self, consent_id: str, granted: bool, *, remember: bool = False) -> Reply:
        """The user's decision on a question."""
        if self._parts is None:
            return "unknown"
        return self._parts.trust.consent.answer(consent_id, granted, remember=remember)

    def recent(
        self, limit: int, *, before: int | None = None, owner: str | None = None
    ) -> list[HandoffRecord]:
        """The last handoffs, newest first; see HandoffJournal.recent."""
        if self._parts is None:
            return []
        return self._parts.journal.recent(limit, before=before, owner=owner)

    def spending(self) -> list[Line]:
        """What the cloud has cost and may cost; see Budget.statement."""
        if self._parts is None:
            return []
        names = [engine.name for engine in self._parts.clouds]
        return self._parts.trust.budget.statement(names)

    def close(self) -> None:
        """End what waits and close what is open; running answers are cancelled by their owners."""
        if self._parts is not None:
            self._parts.close()


def _no_cloud(request: GenerationRequest) -> str:
    if request.n > 1:
        return "a cloud provider writes one choice for a request: ask for n = 1"
    return "cloud_only, but no cloud provider is configured"
