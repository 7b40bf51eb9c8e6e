"""One provider's chance to go on with an answer: breaker, redaction, consent, budget, stream."""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Callable, Generator
from enum import Enum

import msgspec

from spillover.cloud_fallback.errors import (
    AuthFailed,
    BudgetExceeded,
    CannotContinue,
    ContentBlocked,
    KeptLocal,
    NetworkFailed,
    Overloaded,
    ProviderError,
    ProviderRefused,
    SeamFailed,
    Truncated,
)
from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, Replace, StreamEvent
from spillover.cloud_fallback.http.retry import retry_delay
from spillover.cloud_fallback.policy.reason import Reason, ReasonCode
from spillover.cloud_fallback.privacy.redactor import Redacted
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.breaker import CircuitOpen, Permit
from spillover.cloud_fallback.route.cloud_leg import CloudLeg, CloudLegEnd
from spillover.cloud_fallback.route.trip import Trip
from spillover.cloud_fallback.seam.answer_text import AnswerText
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.cloud_fallback.spending.budget import Reservation
from spillover.cloud_fallback.spending.estimate import estimate
from spillover.cloud_fallback.spending.prices import FREE
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.defects import log_defect
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Queued
from spillover.runtime.request import GenerationRequest

MAX_TRIES = 3

_log = logging.getLogger(__name__)


class Outcome(Enum):
    """DONE: the answer is complete. NEXT: another provider may try. AGAIN: so may this one.
    KEEP_LOCAL: nothing more may leave the device."""

    DONE = "done"
    NEXT = "next"
    AGAIN = "again"
    KEEP_LOCAL = "keep_local"


class Stopped(msgspec.Struct, kw_only=True):
    """Why the last writer stopped, and where: what the next one takes up."""

    reason: Reason
    at: float
    """Clock time."""
    bad_chars: int = 0
    withheld: str = ""


class Attempt:
    """Used once. *stopped* is brought up to date when the provider itself stops."""

    def __init__(self, trip: Trip, engine: CloudEngine, stopped: Stopped) -> None:
        self._trip = trip
        self._parts = trip.parts
        self._engine = engine
        self._stopped = stopped
        self.error: Exception | None = None
        """Why it did not come to an end."""

    def run(self) -> Generator[StreamEvent, None, Outcome]:
        """Yield what the client may see."""
        for n_tries in range(1, MAX_TRIES + 1):
            outcome = yield from self._try(n_tries)
            if outcome is not Outcome.AGAIN:
                return outcome
        return Outcome.NEXT

    def _try(self, n_tries: int) -> Generator[StreamEvent, None, Outcome]:
        """Plan, take out what must not leave, and ask the user, before anybody waits in line."""
        if (block := self._block()) is not None:
            self.error = _rests(block)
            return Outcome.NEXT
        try:
            text = self._trip.text(self._stopped.withheld)
            plan = self._plan(text.said, self._trip.answer.remaining_tokens)
            if plan.takes_back:
                left = self._trip.answer.tokens_left(plan.keep_chars)
                plan = self._plan(text.said, left)
            redacted = self._parts.trust.redactor.redact(plan.request, partial=plan.shown)
            self._engine.check(redacted.request)
        except (CannotContinue, InvalidRequest, AuthFailed) as error:
            self.error = error
            return Outcome.NEXT
        except KeptLocal as error:
            self.error = error
            return Outcome.KEEP_LOCAL
        if not (yield from self._may_leave(redacted)):
            return Outcome.KEEP_LOCAL
        gate = self._parts.gate(self._engine.name)
        if not gate.is_open and not self._trip.answer.has_begun:
            # Whoever began the answer is told that it will come, and need not wait for that.
            yield Queued(position=0, n_prompt_tokens=0)
        with gate.enter(self._trip.cancellation) as answered:
            if answered is None:
                return Outcome.NEXT
            return (yield from self._send(plan, text, redacted, answered, n_tries))

    def _block(self) -> CircuitOpen | None:
        """Why the provider is known to be out of reach, so that nobody need be asked."""
        name = self._engine.name
        blocks = self._parts.trust.breakers.blocked()
        return next((block for block in blocks if block.provider == name), None)

    def _send(
        self,
        plan: Continuation,
        text: AnswerText,
        redacted: Redacted,
        answered: Callable[[], None],
        n_tries: int,
    ) -> Generator[StreamEvent, None, Outcome]:
        permit = self._parts.trust.breakers.acquire(self._engine.name)
        if isinstance(permit, CircuitOpen):
            self.error = _rests(permit)
            return Outcome.NEXT
        with permit:
            try:
                reservation = self._reserve(redacted)
            except BudgetExceeded as error:
                self.error = error
                return Outcome.NEXT
            except KeptLocal as error:
                self.error = error
                return Outcome.KEEP_LOCAL
            with reservation:
                yield from self._hand_over(plan, redacted)
                request = _within(redacted.request, reservation)
                joint = self._trip.joint(plan, text, self._stopped.at, limits=True)
                leg = CloudLeg(
                    self._engine,
                    request,
                    redacted=redacted,
                    joint=joint,
                    meter=reservation,
                    on_answer=_both(answered, permit.answered),
                    most_tokens=self._trip.most_cloud_tokens,
                    clock=self._parts.clock,
                )
                return (yield from self._stream(leg, permit, reservation, n_tries))

    # --- before ------------------------------------------------------------------------------

    def _plan(self, said: str, tokens_left: int | None) -> Continuation:
        trip, stopped = self._trip, self._stopped
        mode = "continue" if trip.mode == "at_turn" else trip.mode
        return plan_continuation(
            trip.request,
            said,
            mode=mode,
            prefill=self._engine.may_prefill(),
            can_replace=trip.call.may_replace,
            keep_chars=len(said) - stopped.bad_chars if stopped.bad_chars else None,
            tokens_left=tokens_left,
            reasoning_reserve=self._engine.settings.reasoning_reserve,
        )

    def _may_leave(self, redacted: Redacted) -> Generator[StreamEvent, None, bool]:
        """Whether the user lets it go; asks where that is wanted."""
        trip, name = self._trip, self._engine.name
        if trip.allowed.cloud == "never" or self._parts.trust.consent.is_kept_local(trip.call.id):
            return False
        if trip.allowed.cloud == "auto":
            return True
        if name in trip.granted:
            return True
        asked = ConsentAsked(
            id=secrets.token_hex(16),
            reason=self._stopped.reason.code,
            target=self._engine.writer,
            timeout_s=self._parts.settings.consent_timeout_s,
            n_messages=len(redacted.request.messages),
            redactions=redacted.n_redactions,
        )
        conversation = trip.conversation.hex() if trip.conversation else None
        desk = self._parts.trust.consent
        with desk.question(trip.call.id, asked, conversation) as question:
            yield asked
            granted = question.wait(trip.cancellation)
        yield ConsentAnswered(id=asked.id, granted=granted)
        if granted:
            trip.granted.add(name)
        return bool(granted)

    def _reserve(self, redacted: Redacted) -> Reservation:
        settings = self._engine.settings
        prices = settings.prices or (FREE if settings.is_local_network else None)
        return self._parts.trust.budget.reserve(
            self._engine.name, estimate(redacted.request, prices)
        )

    def _hand_over(self, plan: Continuation, redacted: Redacted) -> Generator[StreamEvent]:
        trip = self._trip
        if trip.writer != self._engine.writer:
            yield trip.hand_over(
                self._engine.writer,
                self._stopped.reason,
                keep_chars=plan.keep_chars,
                redactions=redacted.n_redactions,
            )
        if plan.keep_chars < trip.answer.n_chars:
            yield Replace(keep_chars=plan.keep_chars)

    # --- the stream --------------------------------------------------------------------------

    def _stream(
        self, leg: CloudLeg, permit: Permit, reservation: Reservation, n_tries: int
    ) -> Generator[StreamEvent, None, Outcome]:
        trip = self._trip
        try:
            with self._parts.trust.consent.leg(trip.call.id, leg.cancellation):
                reservation.note(0)
                end = yield from leg.stream(trip.cancellation)
        except ProviderError as error:
            permit.failure(error)
            self._broke(error, leg, reservation)
            return self._after(error, leg, n_tries)
        except (KeptLocal, SeamFailed, InvalidRequest) as error:
            self._broke(error, leg, reservation)
            return Outcome.NEXT
        except Exception as error:  # a defect of ours must not cost the user the answer
            log_defect(_log, f"{self._engine.name} left", error)
            self._broke(error, leg, reservation)
            return Outcome.NEXT
        trip.answer.leg_ended(reservation.settle(leg.leg(), leg.cached_tokens))
        if trip.cancellation.cancelled:
            yield trip.answer.finished("cancelled")
            return Outcome.DONE
        if end.finished is not None and end.finished.reason == "cancelled":
            self._stopped_by(Reason(code="user", is_hard=True), leg.n_chars)
            return Outcome.KEEP_LOCAL
        permit.success()
        return (yield from self._end(end, leg))

    def _end(self, end: CloudLegEnd, leg: CloudLeg) -> Generator[StreamEvent, None, Outcome]:
        answer, n_chars = self._trip.answer, leg.n_chars
        if end.finished is None:
            self._trip.sticks(self._engine.name)
            yield answer.finished("length" if end.stop is None else "stop", end.stop)
            return Outcome.DONE
        reason = end.finished.reason
        if reason == "length" and not n_chars and answer.remaining_tokens != 0:
            return self._said_nothing("it spent all its tokens on reasoning")
        if reason == "stop" and leg.is_empty and not self._trip.request.stop:
            return self._said_nothing("its answer is empty")
        self._trip.sticks(self._engine.name)
        yield answer.finished(reason, end.finished.stop)
        return Outcome.DONE

    def _said_nothing(self, why: str) -> Outcome:
        self.error = Truncated(self._engine.name, why)
        self._stopped_by(Reason(code="provider"), 0)
        return Outcome.NEXT

    # --- after a failure ----------------------------------------------------------------------

    def _broke(self, error: Exception, leg: CloudLeg, reservation: Reservation) -> None:
        self.error = error
        may_bill = isinstance(error, ProviderError) and error.may_bill
        if leg.has_answered or may_bill:
            self._trip.answer.leg_ended(reservation.settle(leg.leg(), leg.cached_tokens))
        else:
            reservation.release()
        code: ReasonCode = "network" if isinstance(error, NetworkFailed) else "provider"
        self._stopped_by(Reason(code=code), leg.n_chars)

    def _stopped_by(self, reason: Reason, n_chars: int) -> None:
        self._stopped.reason, self._stopped.at = reason, self._trip.now
        if n_chars:
            self._stopped.bad_chars, self._stopped.withheld = 0, ""

    def _after(self, error: ProviderError, leg: CloudLeg, n_tries: int) -> Outcome:
        if isinstance(error, ContentBlocked):
            return Outcome.KEEP_LOCAL  # never sent elsewhere in silence
        if leg.has_answered:
            return Outcome.NEXT
        if isinstance(error, ProviderRefused) and error.no_prefill:
            return Outcome.AGAIN  # the engine has learned it
        wait_s = retry_delay(error, n_tries - 1, chance=random.random())
        if wait_s is None:
            return Outcome.NEXT
        _wait(wait_s, self._trip.cancellation)
        return Outcome.AGAIN


def _rests(block: CircuitOpen) -> Overloaded:
    """What its last answers are the reason for, as an error."""
    left_s = block.retry_after_s
    until = "until the configuration changes" if left_s is None else f"for {left_s:.0f} s"
    return Overloaded(block.provider, f"not asked {until} ({block.reason})", left_s)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _within(request: GenerationRequest, reservation: Reservation) -> GenerationRequest:
    """*request*, no longer than the budget pays for."""
    if reservation.max_completion_tokens is None:
        return request
    return msgspec.structs.replace(request, max_tokens=reservation.max_completion_tokens)


def _wait(seconds: float, cancellation: Cancellation) -> None:
    """Sleep, unless the client leaves."""
    woken = threading.Event()
    cancellation.subscribe(woken.set)
    try:
        woken.wait(seconds)
    finally:
        cancellation.unsubscribe(woken.set)
