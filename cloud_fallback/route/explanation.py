"""What would happen to a request, and why: found out without sending or writing anything."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.errors import KeptLocal, RedactionFailed
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.privacy.redactor import Redacted
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.allowed import Allowed
from spillover.cloud_fallback.route.clearance import NOT_THIS_ONE
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.route.local_writer import may_leave_after, reason_of
from spillover.cloud_fallback.spending.prices import Estimate, estimate
from spillover.runtime.engine import EngineStatus, TextEngine
from spillover.runtime.errors import NotLoaded, SpilloverError
from spillover.runtime.events import Queued, WriterId
from spillover.runtime.request import GenerationRequest

Outlook: TypeAlias = Literal["local", "cloud", "ask", "nobody"]
"""Who would begin: the device, a provider, a provider if the user says yes, or nobody."""


class LocalOutlook(Struct, frozen=True, kw_only=True):
    """What the local model makes of a request."""

    model: str
    status: EngineStatus
    n_ctx: int | None = None
    """None: it is not loaded."""
    n_prompt_tokens: int | None = None
    """None: nobody could count them."""
    problem: str | None = None
    """Why it cannot answer."""
    reason: Reason | None = None
    """Why another writer should answer, if that is so because of its problem."""


class ProviderOutlook(Struct, frozen=True, kw_only=True):
    """What one provider would be asked, and what it would cost."""

    writer: WriterId
    address: str
    problem: str | None
    """Why it would not be asked now."""
    needs_consent: bool
    estimate: Estimate
    max_completion_tokens: int | None
    """The longest answer that the budget pays for; None: as long as the request wants."""


class Explanation(Struct, frozen=True, kw_only=True):
    """What would happen to a request now."""

    outlook: Outlook
    allowed: Allowed
    local: LocalOutlook
    reason: Reason | None = None
    """Why the answer would not begin on the device."""
    stays_with: str | None = None
    """The provider that the conversation stays with."""
    redacted: dict[str, int] = {}
    """How many private texts of each kind would be taken out."""
    n_images: int = 0
    providers: tuple[ProviderOutlook, ...] = ()
    """In the order in which they would be asked."""
    cloud_problem: str | None = None
    """Why nothing can leave, if nothing can."""


def explain_local(
    local: TextEngine, request: GenerationRequest, allowed: Allowed, why: str | None
) -> Explanation:
    """Of a request of which nothing may leave, because of *why*."""
    outlook = local_outlook(local, request)
    return Explanation(
        outlook="local" if outlook.problem is None else "nobody",
        allowed=allowed,
        local=outlook,
        n_images=request.n_images,
        cloud_problem=why,
    )


def explain(context: RequestContext) -> Explanation:
    """Of a request that may leave."""
    resources, request = context.resources, context.request
    local = local_outlook(context.local.engine, request)
    reason = _reason(context, local)
    try:
        redacted = resources.redactor.redact(request)
    except RedactionFailed as error:
        return Explanation(
            outlook=_outlook(context.allowed, local, reason, ()),
            allowed=context.allowed,
            local=local,
            reason=reason,
            n_images=request.n_images,
            cloud_problem=str(error),
        )
    wanted = reason or Reason(code="user")
    providers = tuple(_provider(context, each, redacted, wanted) for each in context.providers())
    return Explanation(
        outlook=_outlook(context.allowed, local, reason, providers),
        allowed=context.allowed,
        local=local,
        reason=reason,
        stays_with=context.own_provider,
        redacted={str(kind): n for kind, n in redacted.counts.items()},
        n_images=request.n_images,
        providers=providers,
        cloud_problem=resources.problem(),
    )


def local_outlook(local: TextEngine, request: GenerationRequest) -> LocalOutlook:
    """It is loaded for that, as for an answer."""
    status = local.status()
    try:
        request.refuse_images(local.name)
        n_prompt = _count(local, request)
        n_ctx = local.card.n_ctx
    except NotLoaded:  # no question was needed, but an answer loads it
        return LocalOutlook(model=local.name, status=status)
    except SpilloverError as error:
        reason = reason_of(error, local)
        return LocalOutlook(model=local.name, status=status, problem=str(error), reason=reason)
    problem = None
    if n_prompt >= n_ctx:
        problem = f"the prompt of {n_prompt} tokens exceeds its context of {n_ctx}"
    return LocalOutlook(
        model=local.name, status=status, n_ctx=n_ctx, n_prompt_tokens=n_prompt, problem=problem
    )


def _count(local: TextEngine, request: GenerationRequest) -> int:
    if request.messages:
        return local.apply_template(request).n_tokens
    if isinstance(request.prompt, str):
        return len(local.tokenize(request.prompt, add_special=True, parse_special=True))
    return len(request.prompt or ())


def _reason(context: RequestContext, local: LocalOutlook) -> Reason | None:
    """Why the answer would not begin here, as far as that is known before its first token."""
    resources, request = context.resources, context.request
    stopped = context.reason_to_begin_in_cloud()
    if stopped is not None:
        return stopped.reason
    watch = context.local.policy().watch(request, clock=resources.clock, on_trigger=lambda _: None)
    reason = watch.before(local.status, resources.sensors.read())
    if reason is None and local.n_prompt_tokens is not None:
        watch.see(Queued(position=0, n_prompt_tokens=local.n_prompt_tokens))
        reason = watch.reason
    if reason is None and local.reason is not None and may_leave_after(local.reason, context):
        reason = local.reason
    return reason


def _provider(
    context: RequestContext, engine: CloudEngine, redacted: Redacted, reason: Reason
) -> ProviderOutlook:
    resources, name = context.resources, engine.name
    wanted = estimate(redacted.request, engine.settings.known_prices)
    problem, needs_consent, most = None, False, None
    refusal = resources.breakers.refusal(name)
    try:
        needs_consent = not context.consent(name, reason)
        engine.check(redacted.request)
        most = resources.budget.longest(name, wanted)
    except (*NOT_THIS_ONE, KeptLocal) as error:
        problem = str(error)
    if refusal is not None and not refusal.is_crowd:
        problem = refusal.message
    return ProviderOutlook(
        writer=engine.writer,
        address=engine.settings.address,
        problem=problem,
        needs_consent=needs_consent,
        estimate=wanted,
        max_completion_tokens=most,
    )


def _outlook(
    allowed: Allowed,
    local: LocalOutlook,
    reason: Reason | None,
    providers: tuple[ProviderOutlook, ...],
) -> Outlook:
    first = next((each for each in providers if each.problem is None), None)
    if first is not None and reason is not None:
        return "ask" if first.needs_consent else "cloud"
    return "local" if allowed.local and local.problem is None else "nobody"
