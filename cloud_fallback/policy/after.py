"""Policies that look at an answer that has ended. Each is a pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from spillover.runtime.events import Finished
from spillover.runtime.request import GenerationRequest, JsonSchema

Policy: TypeAlias = Callable[[Signals, Finished, GenerationRequest], Reason | None]


def out_of_context(signals: Signals, end: Finished, request: GenerationRequest) -> Reason | None:
    """It was cut off before max_tokens: the context was full."""
    n, most = end.usage.completion_tokens, request.max_tokens
    if end.reason != "length" or (most is not None and n >= most):
        return None
    found = {"n_tokens": float(end.usage.prompt_tokens + n)}
    return Reason(code="context", is_hard=True, signals=found)


def says_nothing(signals: Signals, end: Finished, request: GenerationRequest) -> Reason | None:
    """It ended without a word and without a tool call, and not at a stop string."""
    if not request.messages or not _ended_itself(end):
        return None
    if signals.has_text or signals.has_calls:
        return None
    return Reason(code="empty", is_hard=True, keep_chars=0)


def misses_form(signals: Signals, end: Finished, request: GenerationRequest) -> Reason | None:
    """It ended, and is not the JSON that was asked for: unfinished JSON may go on, JSON that does
    not follow its schema must be written anew."""
    if not _ended_itself(end):
        return None
    if any(not call.is_complete for call in signals.calls.values()):
        return Reason(code="schema", is_hard=True, keep_chars=0)
    json = signals.json
    if json is None or not signals.has_text:
        return None
    if not json.is_complete:
        return Reason(code="schema", is_hard=True, keep_chars=signals.broken_at)
    if isinstance(request.response_format, JsonSchema):
        from spillover.cloud_fallback.policy.text.json_schema import follows  # loads a library

        if not follows("".join(signals.document), request.response_format.schema):
            return Reason(code="schema", is_hard=True, keep_chars=0)
    return None


def _ended_itself(end: Finished) -> bool:
    """The model ended its answer: no limit and no stop string did."""
    return end.reason in ("stop", "tool_calls") and end.stop is None


POLICIES: tuple[Policy, ...] = (out_of_context, says_nothing, misses_form)


def first_reason(
    signals: Signals, settings: PolicySettings, end: Finished, request: GenerationRequest
) -> Reason | None:
    """The first reason of a policy that is switched on."""
    if request.n != 1:
        return None
    for policy in POLICIES:
        reason = policy(signals, end, request)
        if reason is not None and settings.is_on(reason.code):
            return reason
    return None
