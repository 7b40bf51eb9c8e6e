"""Clears what must be cleared before any part of an answer leaves the device: the circuit breaker,
the redaction, the user's consent, and the budget."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import ExitStack

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import CannotContinue, ConsentRefused
from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, StreamEvent
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.privacy.redactor import Redacted
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.breaker import CircuitOpen, Permit
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.spending.budget import Reservation
from spillover.cloud_fallback.spending.prices import estimate
from spillover.runtime.events import Queued
from spillover.runtime.request import GenerationRequest


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

    *stack* releases the permit and the reservation. Raises ProviderError, CannotContinue,
    InvalidRequest and BudgetExceeded when *provider* is skipped, and any other KeptLocal when
    nothing may leave for any provider.
    """
    resources, name = context.resources, provider.name
    refusal = resources.breakers.refusal(name)
    if refusal is not None and not refusal.is_crowd:
        raise refusal.error()  # before the user is asked in vain
    redacted = resources.redactor.redact(plan.request, partial=plan.shown)
    provider.check(redacted.request)
    yield from _ask_user(context, provider, redacted, reason)
    permit = stack.enter_context((yield from _turn(context, name)))
    prices = provider.settings.known_prices
    reservation = resources.budget.reserve(name, estimate(redacted.request, prices))
    stack.enter_context(reservation)
    request, most = redacted.request, reservation.max_completion_tokens
    if most is not None:
        request = msgspec.structs.replace(request, max_tokens=most)
    return Clearance(request=request, redacted=redacted, permit=permit, reservation=reservation)


def _ask_user(
    context: RequestContext, provider: CloudEngine, redacted: Redacted, reason: Reason
) -> Generator[StreamEvent]:
    """Raise ConsentRefused unless the answer may leave."""
    consents, allowed = context.resources.consents, context.allowed.cloud
    if allowed == "never" or consents.is_kept_local(context.id):
        raise ConsentRefused("the answer must stay on the device")
    if allowed == "auto" or provider.name in context.granted:
        return
    asked = ConsentAsked(
        id=secrets.token_hex(16),
        reason=reason.code,
        target=provider.writer,
        timeout_s=context.resources.settings.consent_timeout_s,
        n_messages=len(redacted.request.messages),
        redactions=redacted.n_redactions,
    )
    conversation = context.conversation.hex() if context.conversation else None
    with consents.question(context.id, asked, conversation) as question:
        yield asked
        granted = question.wait(context.cancellation)
    yield ConsentAnswered(id=asked.id, granted=granted)
    if not granted:
        raise ConsentRefused(f"the user did not consent to an answer by {provider.name}")
    context.granted.add(provider.name)


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
