"""The way of one answer: one generator, one thread.

Local until a policy or an error gives a reason; then, with consent, one cloud provider after the
other; and when none can go on, the local model again, with the text of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import takewhile
from typing import get_args

import msgspec

from spillover.cloud_fallback.events import Seam, StreamEvent
from spillover.cloud_fallback.policy.reason import Reason, ReasonCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch, logprobs_wanted
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.answer import local_leg
from spillover.cloud_fallback.route.attempt import Attempt, Outcome, Stopped
from spillover.cloud_fallback.route.joint import Joint
from spillover.cloud_fallback.route.local_errors import reason_of
from spillover.cloud_fallback.route.local_leg import Grace, LegEnd, LocalLeg
from spillover.cloud_fallback.route.trip import Trip
from spillover.cloud_fallback.seam.continuation import plan_continuation
from spillover.runtime.errors import EngineError, InvalidRequest, SpilloverError
from spillover.runtime.events import Delta, EngineEvent, Finished, ToolCallDelta
from spillover.runtime.request import GenerationRequest


def _all_codes() -> tuple[ReasonCode, ...]:
    codes: list[ReasonCode] = []
    for part in get_args(ReasonCode):
        codes += get_args(part) or (part,)
    return tuple(codes)


UNWATCHED = PolicySettings(switched_off=tuple(c for c in _all_codes() if c != "user"))
"""For a local leg that only the user may hand over."""


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """The local model stopped; and what happens when nobody else can go on."""

    reason: Reason
    at: float
    bad_chars: int = 0
    withheld: str = ""
    dropped: tuple[EngineEvent, ...] = ()
    """What it said and the client has not seen."""
    end: Finished | None = None
    """Its own end, where it came to one."""
    error: SpilloverError | None = None
    """It cannot go on at all."""
    may_leave: bool = True
    """False: the owner wants no handoff for this reason."""


class Journey:
    """Used once; see Router.stream."""

    def __init__(self, trip: Trip) -> None:
        self._trip = trip
        self._parts = trip.parts
        self._policy = trip.parts.policy()
        self._cloud_error: Exception | None = None
        self._last_stop: Stopped | None = None
        self._came_back = False
        self.leg: LocalLeg | None = None
        """The local leg that runs now."""

    def run(self) -> Generator[StreamEvent]:
        """Yield the events of the answer."""
        trip, journal = self._trip, self._parts.journal
        try:
            for event in self._run():
                trip.answer.sent(event)
                if isinstance(event, Seam):
                    journal.seam(trip.call.id, event)
                yield event
        finally:
            if trip.answer.n_handoffs:
                journal.legs(trip.call.id, trip.answer.legs)

    def _run(self) -> Generator[StreamEvent]:
        stuck = self._start()
        while True:
            stuck = stuck or (yield from self._local())
            if stuck is None:
                return
            answer = self._trip.answer
            self._when_stuck = answer.n_chars, answer.began_tool_call
            if stuck.may_leave and (yield from self._clouds(stuck)):
                return
            if not (yield from self._back(stuck)):
                return
            stuck = None

    def _start(self) -> Stuck | None:
        """Why the answer begins in the cloud; None: it begins here."""
        if self._trip.allowed.first == "cloud":
            return Stuck(reason=Reason(code="user", is_hard=True), at=self._trip.now)
        if self._trip.home is not None:
            return Stuck(reason=Reason(code="sticky"), at=self._trip.now)
        return None

    # --- local -------------------------------------------------------------------------------

    def _local(self) -> Generator[StreamEvent, None, Stuck | None]:
        """The local model writes; None when the answer is complete."""
        trip = self._trip
        request, joint = self._local_request()
        leg = self._make_leg(request)
        if self._policy is not None:
            reason = leg.watch.before(self._parts.local.status(), self._parts.sensors.read())
            if reason is not None:
                return Stuck(reason=reason, at=trip.now)
            self._warm()
        self.leg = leg
        try:
            with self._parts.watching(leg, senses=self._policy is not None):
                end = yield from self._follow(leg, joint)
            if self._policy is not None:
                self._policy.learn(leg.watch)
        except (EngineError, InvalidRequest) as error:
            kept = () if joint is not None else leg.kept_back()
            stuck = self._stuck_by(error, kept)
            if stuck is None:
                yield from kept
                raise
            return stuck
        finally:
            self.leg = None
        return (yield from self._ended(end, joint))

    def _local_request(self) -> tuple[GenerationRequest, Joint | None]:
        trip, answer = self._trip, self._trip.answer
        if not answer.has_begun:
            if self._policy is None:
                return trip.request, None
            n_top = logprobs_wanted(trip.request, self._policy.settings)
            return msgspec.structs.replace(trip.request, logprobs=n_top), None
        text = trip.text()
        plan = plan_continuation(
            trip.request,
            text.said,
            target="local",
            tokens_left=answer.remaining_tokens,
            tokenize=lambda text: self._parts.local.tokenize(
                text, add_special=False, parse_special=False
            ),
        )
        joint = trip.joint(plan, text, trip.now, limits=False, tells=self._came_back)
        return plan.request, joint

    def _make_leg(self, request: GenerationRequest) -> LocalLeg:
        parts, trip = self._parts, self._trip
        settings = parts.settings
        grace = Grace(tokens=settings.grace_tokens, seconds=settings.grace_s)
        return LocalLeg(
            parts.local,
            request,
            make_watch=lambda trigger: self._watch(request, trigger),
            alarms=parts.alarms,
            clock=parts.clock,
            logprobs=trip.request.logprobs,
            stops=trip.request.stop,
            said=lambda: trip.answer.text,
            grace=grace if trip.mode == "finish_sentence" else None,
            defers=trip.mode == "at_turn",
        )

    def _watch(self, request: GenerationRequest, on_trigger: Callable[[Reason], None]) -> Watch:
        clock = self._parts.clock
        if self._policy is not None:
            return self._policy.watch(request, clock=clock, on_trigger=on_trigger)
        return Watch(UNWATCHED, request, clock=clock, on_trigger=on_trigger)

    def _warm(self) -> None:
        if self._trip.allowed.cloud == "auto" and self._parts.settings.warms_connections:
            self._parts.warm_first()

    def _follow(self, leg: LocalLeg, joint: Joint | None) -> Generator[StreamEvent, None, LegEnd]:
        if joint is None:
            return (yield from leg.stream(self._trip.cancellation))
        return (yield from _joined(leg, joint, self._trip))

    def _stuck_by(
        self, error: EngineError | InvalidRequest, kept: tuple[EngineEvent, ...]
    ) -> Stuck | None:
        """None: nobody else could do better. *kept*: see LocalLeg.kept_back."""
        reason = reason_of(error, self._parts.local.status())
        if reason is None:
            return None
        may_leave = self._parts.policy_settings.is_on(reason.code)
        return Stuck(
            reason=reason, at=self._trip.now, error=error, may_leave=may_leave, dropped=kept
        )

    def _ended(
        self, end: LegEnd, joint: Joint | None
    ) -> Generator[StreamEvent, None, Stuck | None]:
        trip, finished = self._trip, end.finished
        trip.answer.leg_ended(local_leg(self._parts.local_writer, finished), finished.timings)
        if end.deferred is not None:
            trip.stays_with(self._parts.clouds[0].name)
        stopped = joint.stopped if joint is not None else None
        if end.reason is not None and stopped is None and not trip.cancellation.cancelled:
            return Stuck(
                reason=end.reason,
                at=end.triggered_at,
                bad_chars=end.bad_chars,
                withheld=end.withheld,
                dropped=end.dropped,
                end=None if finished.reason == "cancelled" else finished,
            )
        if stopped is not None:
            yield trip.answer.finished("stop", stopped)
        elif trip.answer.n_handoffs or len(trip.answer.legs) > 1:
            yield trip.answer.finished(finished.reason, finished.stop)
        else:
            yield finished
        return None

    # --- cloud -------------------------------------------------------------------------------

    def _clouds(self, stuck: Stuck) -> Generator[StreamEvent, None, bool]:
        """Whether the answer has come to its end."""
        trip, answer = self._trip, self._trip.answer
        stopped = self._last_stop = Stopped(
            reason=stuck.reason, at=stuck.at, bad_chars=stuck.bad_chars, withheld=stuck.withheld
        )
        for engine in self._candidates():
            if trip.cancellation.cancelled:
                yield answer.finished("cancelled")
                return True
            if answer.began_tool_call or answer.n_handoffs >= self._parts.settings.max_handoffs:
                break  # half a call can neither be continued nor taken back
            if answer.remaining_tokens == 0:
                break
            attempt = Attempt(trip, engine, stopped)
            outcome = yield from attempt.run()
            self._cloud_error = attempt.error or self._cloud_error
            if outcome is Outcome.DONE:
                return True
            if outcome is Outcome.KEEP_LOCAL:
                break
        return False

    def _candidates(self) -> list[CloudEngine]:
        """The conversation's own provider first, then in the owner's order."""
        home = self._trip.home
        return sorted(self._parts.clouds, key=lambda engine: engine.name != home)

    # --- back --------------------------------------------------------------------------------

    def _back(self, stuck: Stuck) -> Generator[StreamEvent, None, bool]:
        """Nobody in the cloud goes on; whether the local model is to."""
        trip, answer = self._trip, self._trip.answer
        self._policy = None  # nobody could take over
        if trip.cancellation.cancelled:
            yield answer.finished("cancelled")
            return False
        is_spent = answer.remaining_tokens == 0
        cannot = (stuck.error is not None or not trip.allowed.local) and not is_spent
        # Where nothing came from elsewhere, the client gets what the local model had said.
        is_untouched = (answer.n_chars, answer.began_tool_call) == self._when_stuck
        end = stuck.end if is_untouched else None
        if answer.began_tool_call and end is None and not cannot:
            yield answer.finished("interrupted")  # nobody can go on with half a call
            return False
        dropped = stuck.dropped if is_untouched else ()
        if end is None:  # what it had begun of a call it makes anew
            dropped = tuple(takewhile(lambda e: not isinstance(e, ToolCallDelta), dropped))
        goes_on = end is None and not is_spent and not cannot
        yield from self._to_local(stuck, goes_on=goes_on, dropped=dropped)
        if cannot:
            yield from self._give_up(stuck)
        elif not goes_on:
            yield answer.finished("length") if end is None else self._end_of(end)
        return goes_on

    def _to_local(
        self, stuck: Stuck, *, goes_on: bool, dropped: tuple[EngineEvent, ...]
    ) -> Generator[StreamEvent]:
        """What the local model had said, and that it is its own, where the client thinks that
        somebody else writes."""
        trip = self._trip
        self._came_back = trip.writer.origin == "cloud" and (goes_on or bool(dropped))
        if self._came_back:
            trip.stays_with(None)
            reason = self._last_stop.reason if self._last_stop else stuck.reason
            local = self._parts.local_writer
            yield trip.hand_over(local, reason, keep_chars=trip.answer.n_chars)
        yield from dropped

    def _end_of(self, end: Finished) -> Finished:
        answer = self._trip.answer
        return answer.finished(end.reason, end.stop) if answer.n_handoffs else end

    def _give_up(self, stuck: Stuck) -> Generator[StreamEvent]:
        """Nobody can go on. Before the first word that is an error; later it is an end that says
        so, and is never called complete."""
        answer = self._trip.answer
        if not answer.has_begun and not answer.n_handoffs:
            raise stuck.error or self._cloud_error or EngineError("no cloud provider can be asked")
        if stuck.reason.code == "context" and answer.has_begun:
            yield answer.finished("length")
        elif answer.has_begun:
            yield answer.finished("interrupted")
        else:
            error = self._cloud_error or stuck.error
            raise error or EngineError("no cloud provider has answered")


def _joined(leg: LocalLeg, joint: Joint, trip: Trip) -> Generator[StreamEvent, None, LegEnd]:
    """The leg's events, its text joined to what was said before."""
    stream = leg.stream(trip.cancellation)
    while True:
        try:
            event = next(stream)
        except StopIteration as stop:
            end: LegEnd = stop.value
            if joint.stopped is None:
                yield from joint.end()
            return end
        if joint.stopped is not None:
            continue  # it is ending
        if not isinstance(event, Delta):
            yield event
            continue
        yield from joint.feed(event.text)
        if joint.stopped is not None:
            leg.stop()
