"""Clears what must be cleared before any part of an answer leaves the device: the circuit breaker,
the redaction, the user's consent, and the budget."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from functools import partial

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import (
    BudgetExceeded,
    CannotContinue,
    ConsentRefused,
    KeptLocal,
    ProviderDeclined,
    ProviderError,
)
from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.privacy.consent import Plan, Planned, Question
from spillover.cloud_fallback.privacy.redactor import Redacted
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.availability.breaker import CircuitOpen, Permit
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.route.stopped import Stopped
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.spending.budget import Reservation
from spillover.cloud_fallback.spending.prices import estimate
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Queued
from spillover.runtime.request import GenerationRequest

NOT_THIS_ONE = (ProviderError, CannotContinue, InvalidRequest, BudgetExceeded, ProviderDeclined)
"""Raised when a provider cannot go on, but the next one may."""


class Clearance(Struct, frozen=True, kw_only=True):
    """One request that may leave now."""

    request: GenerationRequest
    """Redacted, and no longer than the budget allows."""
    redacted: Redacted
    permit: Permit
    reservation: Reservation


def clear(
    context: RequestContext,
    provider: CloudEngine,
    plan: Continuation,
    reason: Reason,
    stack: ExitStack,
) -> Generator[StreamEvent, None, Clearance]:
    """Yield the question to the user, if there is one; return what was cleared.

    *stack* releases the permit and the reservation. Raises one of NOT_THIS_ONE when *provider* is
    skipped, and any other KeptLocal when nothing may leave for any provider.
    """
    resources, name = context.resources, provider.name
    refusal = resources.breakers.refusal(name)
    if refusal is not None and not refusal.is_crowd:
        raise refusal.error()  # before the user is asked in vain
    redacted = resources.redactor.redact(plan.request, partial=plan.shown)
    provider.check(redacted.request)
    yield from _ask_user(context, provider, redacted, reason)
    permit = stack.enter_context((yield from _turn(context, name)))
    cost = estimate(redacted.request, provider.settings.known_prices)
    reservation = resources.budget.reserve(name, cost)
    stack.enter_context(reservation)
    request, most = redacted.request, reservation.max_completion_tokens
    if most is not None:
        request = msgspec.structs.replace(request, max_tokens=most)
    return Clearance(request=request, redacted=redacted, permit=permit, reservation=reservation)


def _ask_user(
    context: RequestContext, provider: CloudEngine, redacted: Redacted, reason: Reason
) -> Generator[StreamEvent]:
    """Raise ConsentRefused unless the answer may leave. A question that was asked while the local
    model wrote is answered first, whatever is known by now."""
    planned = Planned(request=redacted.request, redactions=redacted.n_redactions)
    question = context.asking.question
    if question is not None and question.provider != provider.name:
        yield from context.end_question()
        question = None
    if question is None:
        if context.consent(provider.name, reason):
            return
        question = _open_question(context, provider, planned, reason)
        yield question.asked
    question.plan = lambda: planned  # nobody writes meanwhile
    granted = question.wait(context.cancellation)
    yield from context.end_question()
    if not granted:
        raise ConsentRefused(f"the user did not consent to an answer by {provider.name}")


def _open_question(
    context: RequestContext,
    provider: CloudEngine,
    planned: Planned,
    reason: Reason,
    plan: Plan | None = None,
) -> Question:
    """Ask whether *provider* may go on; the event is the question's *asked*. *plan*: see Asking.

    Raises as clear() would for want of money, so that the user is not asked in vain. Reserves
    nothing: the model that goes on meanwhile may end soon.
    """
    wanted = estimate(planned.request, provider.settings.known_prices)
    longest = context.resources.budget.longest(provider.name, wanted)
    return context.asking.open(
        provider.writer,
        reason.code,
        planned,
        cost=wanted.cost(longest),
        plan=plan,
    )


def ask_early(
    context: RequestContext, reason: Reason
) -> Generator[StreamEvent, None, bool | Question]:
    """Ask the user while the local model still writes: about the first provider that could take
    over. True: one may, unasked; False: none could, or may."""
    if not context.may_go_to_cloud:
        return False
    for provider in context.providers():
        refusal = context.resources.breakers.refusal(provider.name)
        if provider.problem is not None or (refusal is not None and not refusal.is_crowd):
            continue
        try:
            if context.consent(provider.name, reason):
                return True
            plan = partial(_planned_now, context, provider, reason)
            question = _open_question(context, provider, plan(), reason, plan)
        except NOT_THIS_ONE:
            continue
        except KeptLocal:
            return False
        yield question.asked
        return question
    return False


def _planned_now(context: RequestContext, provider: CloudEngine, reason: Reason) -> Planned:
    """What *provider* would get while the local model still writes. Any thread may ask. Raises one
    of NOT_THIS_ONE, or another KeptLocal."""
    # Looked at before the text is, which may end meanwhile.
    is_written = context.stream is not None
    said = context.text_now()
    # Good text that is held back goes along, too.
    may_grow = is_written and (reason.keep_chars is None or len(said) < reason.keep_chars)
    n_bad = 0 if reason.keep_chars is None else max(len(said) - reason.keep_chars, 0)
    plan = context.plan(provider, Stopped(reason=reason, at=context.now, bad_chars=n_bad), said)
    redacted = context.resources.redactor.redact(plan.request, partial=plan.shown)
    provider.check(redacted.request)
    return Planned(request=redacted.request, redactions=redacted.n_redactions, may_grow=may_grow)


def _turn(context: RequestContext, provider: str) -> Generator[StreamEvent, None, Permit]:
    """The permit to send one request, after a wait if the state of *provider* is unknown."""
    breakers = context.resources.breakers
    permit = breakers.acquire(provider)
    if isinstance(permit, CircuitOpen) and permit.is_crowd:
        if not context.answer.has_begun:
            # The client learns at once that the answer was accepted.
            yield Queued(position=0, n_prompt_tokens=0)
        permit = breakers.wait_turn(provider, context.cancellation)
    if isinstance(permit, CircuitOpen):
        raise permit.error()
    if context.cancellation.cancelled:
        permit.release()
        raise CannotContinue("the client has left")
    return permit
