"""Local first, the cloud when needed, one stream: the entry point of this package."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import Self

from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.policy.affinity import conversation_key
from spillover.cloud_fallback.policy.doubt import DoubtReading
from spillover.cloud_fallback.privacy.consent import ConsentReply, ConsentScope, PendingConsent
from spillover.cloud_fallback.privacy.standing import StandingConsent
from spillover.cloud_fallback.route.allowed import allowed
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.route.explanation import Explanation, explain, explain_local
from spillover.cloud_fallback.route.local_side import LocalSide
from spillover.cloud_fallback.route.resources import RouteResources
from spillover.cloud_fallback.route.route import route
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.spending.journal import HandoffRecord
from spillover.cloud_fallback.spending.limits import StatementLine
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.checked import checked, expect
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import EngineClosed, InvalidRequest
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest


class Router:
    """One for all answers of a device. Any thread may use it. A context manager, to close it."""

    def __init__(
        self, local: TextEngine, settings: CloudSettings, resources: RouteResources | None
    ) -> None:
        """*settings*: those of *local*. *resources* None: there is no cloud, everything is
        local."""
        self._resources = resources
        self.local = self._side(local, settings)
        """The model that answers where no other is asked for."""
        self._others: list[LocalSide] = []
        self._lock = threading.Lock()
        self._running: dict[str, RequestContext] = {}
        self._sides: dict[str, LocalSide] = {}
        """Of all running answers, those too that must stay here."""
        self._is_closed = False

    @classmethod
    def open(
        cls,
        local: LocalEngine | HostedModel,
        settings: CloudSettings,
        environ: Mapping[str, str],
        *,
        others: Iterable[CloudSettings] = (),
    ) -> Self:
        """The router of *local*'s answers; *environ* may hold the providers' keys. *others*: the
        settings of models that will be added.

        With fallback "never" for all of them, or without a provider, nothing is set up for the
        cloud: no key is looked up, no file and no connection is opened.

        Raises InvalidRequest for settings that are not allowed or contradict each other, and for
        arguments of another type.
        """
        if not isinstance(local, HostedModel):
            expect(local, LocalEngine, "local")
        expect(environ, Mapping, "environ")  # type: ignore[type-abstract]  # isinstance takes it
        settings = expect(settings, CloudSettings, "settings").checked()
        stays = all(each.fallback == "never" for each in (settings, *others))
        if stays or not settings.providers:
            return cls(local, settings, None)
        resources = RouteResources.open(settings, environ)
        resources.prepare()
        router = cls(local, settings, resources)
        local.watch_deaths(router.worker_died)
        return router

    def _side(self, engine: TextEngine, settings: CloudSettings) -> LocalSide:
        resources = self._resources
        return LocalSide(engine, settings, None if resources is None else resources.data_dir)

    def add(self, engine: HostedModel, settings: CloudSettings) -> LocalSide:
        """Another local model, which stream() may be given; see LocalSide for its *settings*."""
        side = self._side(engine, settings)
        self._others.append(side)
        engine.watch_deaths(partial(self.worker_died, side))
        return side

    def stream(
        self,
        request: GenerationRequest,
        options: RouteOptions | None = None,
        cancellation: Cancellation | None = None,
        local: LocalSide | None = None,
    ) -> Generator[StreamEvent]:
        """Yield the events of one answer from all its writers; close() or *cancellation* ends it.
        *local*: the local model among them, one that was added.

        Raises InvalidRequest, EngineBusy or EngineClosed before the first event, EngineError at any
        time.
        """
        if self._is_closed:
            raise EngineClosed("this router is closed: open another one")
        request = expect(request, GenerationRequest, "request").checked()
        options = checked(expect(options or RouteOptions(), RouteOptions, "options"))
        cancellation = expect(cancellation or Cancellation(), Cancellation, "cancellation")
        local = local or self.local
        may = allowed(local.routing, options.routing, can_answer=options.can_answer)
        resources = self._resources
        context: RequestContext | None = None
        if resources is not None and may.may_leave and request.n == 1:
            context = RequestContext(resources, local, request, options, may, cancellation)
            context.begin()
        elif not may.local:
            raise InvalidRequest(_no_cloud(request), "spillover.only")
        elif resources is not None and options.routing.only == "local_only" and request.messages:
            resources.returned(conversation_key(request.messages, options.owner))
        with self._lock:
            self._sides[options.id] = local
            if context is not None:
                self._running[options.id] = context
        try:
            if context is not None:
                yield from route(context)
            else:
                yield from local.engine.stream(request, cancellation)
        finally:
            with self._lock:
                self._sides.pop(options.id, None)
                self._running.pop(options.id, None)

    def explain(
        self,
        request: GenerationRequest,
        options: RouteOptions | None = None,
        local: LocalSide | None = None,
    ) -> Explanation:
        """What stream() would do now, and why. Nothing is sent, written or noted; the local model
        counts the prompt. Raises what stream() would raise for a request that is wrong."""
        request = expect(request, GenerationRequest, "request").checked()
        options = checked(expect(options or RouteOptions(), RouteOptions, "options"))
        local = local or self.local
        may = allowed(local.routing, options.routing, can_answer=options.can_answer)
        resources = self._resources
        if resources is None or not may.may_leave or request.n > 1:
            why = self.cloud_problem(local) or _STAYS
            return explain_local(local.engine, request, may, why)
        return explain(RequestContext(resources, local, request, options, may, Cancellation()))

    def hand_over(self, answer_id: str) -> bool:
        """Let the cloud continue a running answer. False: nobody can take over now, and the answer
        goes on undisturbed; handoff_problem() says why."""
        context = self._context(answer_id)
        stream = context.stream if context is not None else None
        if stream is None or self.handoff_problem(answer_id) is not None:
            return False
        stream.hand_over()
        return True

    def has_cloud(self, local: LocalSide | None = None) -> bool:
        """Whether a provider may write anything for the default model, or for *local*."""
        return self._resources is not None and (local or self.local).may_leave

    def sees_images(self, local: LocalSide | None = None) -> bool:
        """Whether a provider may answer about images that the default model, or *local*, is
        shown."""
        local, resources = local or self.local, self._resources
        if resources is None or not local.may_leave or not local.policy_settings.is_on("modality"):
            return False
        return any(engine.settings.sees_images for engine in resources.providers)

    def cloud_problem(self, local: LocalSide | None = None) -> str | None:
        """Why no provider can write anything now for the default model, or for *local*; None: one
        can be asked."""
        if self._is_closed:
            return "the router is closed"
        if not (local or self.local).may_leave:
            return 'fallback is "never", so that nothing leaves this device: set it to ask or auto'
        if self._resources is None:
            return "no provider is configured: add one with `spillover connect URL`"
        return self._resources.problem()

    def broken_fallback(self) -> str | None:
        """Why no provider can take over, although the owner lets one; None: one can, or none
        may."""
        sides = [side for side in (self.local, *self._others) if side.may_leave]
        return self.cloud_problem(sides[0]) if sides else None

    def handoff_problem(self, answer_id: str) -> str | None:
        """Why no provider can continue a running answer now; None: one can be asked."""
        context = self._context(answer_id)
        if context is not None:
            return context.handoff_problem
        with self._lock:
            local = self._sides.get(answer_id, self.local)
        why = "its request is local_only, or asks for several choices"
        if (local.routing.fallback, local.routing.unasked) == ("ask", "never"):
            why += ", or its client cannot show a question (see fallback_unasked)"
        return self.cloud_problem(local) or f"it does not run, or must stay on this device: {why}"

    def _context(self, answer_id: str) -> RequestContext | None:
        with self._lock:
            return self._running.get(answer_id)

    def worker_died(self, local: LocalSide | None = None) -> None:
        """The local model's process has died: hand its answers over unless it soon continues."""
        local = local or self.local
        if self._resources is None or not local.policy_settings.is_on("crash"):
            return
        with self._lock:
            running = list(self._running.values())
        streams = [context.stream for context in running if context.local is local]
        for stream in streams:
            if stream is not None:
                stream.worker_died()

    def keep_local(self, answer_id: str) -> bool:
        """Keep an answer on the device from now on, also one whose first event is still to come.
        False: it is not running, or could not leave anyway."""
        if self._resources is not None:
            self._resources.consents.keep_local(answer_id)
        return self._context(answer_id) is not None

    def decode_floor(self, local: LocalSide | None = None) -> float | None:
        """Tokens per second below which an answer of the default model, or of *local*, is handed
        over; None: no speed is too low."""
        local = local or self.local
        if not self.has_cloud(local) or not local.policy_settings.is_on("slow"):
            return None
        return local.policy_settings.decode_floor

    def doubts(self, local: LocalSide | None = None) -> dict[str, DoubtReading]:
        """Of the running answers of the default model, or of *local*, that are judged while it
        writes, by their ids."""
        local = local or self.local
        with self._lock:
            running = list(self._running.items())
        streams = {id_: context.stream for id_, context in running if context.local is local}
        readings = {id_: stream.watch.doubt for id_, stream in streams.items() if stream}
        return {id_: reading for id_, reading in readings.items() if reading}

    def pending_consents(self) -> list[PendingConsent]:
        """The open questions to the user."""
        return [] if self._resources is None else self._resources.consents.pending()

    def consent(
        self, consent_id: str, granted: bool, *, scope: ConsentScope = "once"
    ) -> ConsentReply:
        """Reply to a question; see Consents.answer."""
        if self._resources is None:
            return "unknown"
        return self._resources.consents.answer(consent_id, granted, scope=scope)

    def standing_consents(self, owner: str = "") -> list[StandingConsent]:
        """What *owner* has decided about providers for good."""
        if self._resources is None:
            return []
        decisions = self._resources.consents.standing.all()
        return [decision for decision in decisions if decision.owner == owner]

    def recent(
        self, limit: int, *, before: int | None = None, owner: str | None = None
    ) -> list[HandoffRecord]:
        """The latest handoffs, newest first; see HandoffJournal.recent."""
        if self._resources is None:
            return []
        return self._resources.journal.recent(limit, before=before, owner=owner)

    def spending(self) -> list[StatementLine]:
        """What the cloud has cost and may still cost; see Budget.statement."""
        if self._resources is None:
            return []
        names = [engine.name for engine in self._resources.providers]
        return self._resources.budget.statement(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open, and refuse what comes. Cancel the running answers first."""
        self._is_closed = True
        for side in (self.local, *self._others):
            side.close()
        if self._resources is not None:
            self._resources.close()


_STAYS = (
    "the request must stay on this device: it is local_only, asks for several choices, or its "
    "client cannot show a question (see fallback_unasked)"
)


def _no_cloud(request: GenerationRequest) -> str:
    if request.n > 1:
        return "a cloud provider writes one choice per request: ask for n = 1"
    return "the request is cloud_only, but no cloud provider is configured: add one"
