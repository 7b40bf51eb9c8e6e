"""Policies that look at a request before its answer begins. Each is a pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.policy.device_reading import DevicePressure, DeviceReading
from spillover.cloud_fallback.policy.local_model import LocalModel
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.text.languages import is_covered
from spillover.runtime.engine import EngineStatus
from spillover.runtime.request import GenerationRequest


class Outlook(Struct, frozen=True, kw_only=True):
    """What is known before the start."""

    request: GenerationRequest
    status: EngineStatus
    n_prompt_tokens: int | None
    device: DeviceReading | None
    local: LocalModel
    settings: PolicySettings

    @property
    def room_wanted(self) -> int:
        """Tokens that must be left for the answer."""
        least = self.settings.least_room_tokens
        most = self.request.max_tokens
        return max(min(least, most) if most is not None else least, 1)


Policy: TypeAlias = Callable[[Outlook], Reason | None]


def matches_rule(outlook: Outlook) -> Reason | None:
    """A rule of the user's says that this prompt is not for the local model."""
    if not outlook.settings.rules:
        return None
    from spillover.cloud_fallback.policy import rules  # loads a library

    place = rules.first_match(outlook.settings.rules, outlook.request.messages)
    return None if place is None else Reason(code="rule", is_hard=True, signals={"rule": place})


def worker_gone(outlook: Outlook) -> Reason | None:
    """The local model's process has died and is not back."""
    if outlook.status.state not in ("restarting", "failed", "closed"):
        return None
    n = outlook.status.n_restarts
    return Reason(code="crash", is_hard=True, signals={"n_restarts": n})


def prompt_too_long(outlook: Outlook) -> Reason | None:
    """The prompt does not fit into the context, or leaves too little room for an answer."""
    n, n_ctx = outlook.n_prompt_tokens, outlook.local.n_ctx
    if n is None or not n_ctx or n + outlook.room_wanted <= n_ctx:
        return None
    signals = {"n_prompt_tokens": float(n), "n_ctx": float(n_ctx)}
    return Reason(code="context", is_hard=True, signals=signals)


def tools_unusable(outlook: Outlook) -> Reason | None:
    """The request brings tools, and the local model is known not to call any."""
    request, settings = outlook.request, outlook.settings
    if not request.tools or request.tool_choice == "none":
        return None
    can = outlook.local.can_call_tools if settings.local_tools is None else settings.local_tools
    if can is not False:
        return None
    return Reason(code="tools", is_hard=True, signals={"n_tools": float(len(request.tools))})


def language_unknown(outlook: Outlook) -> Reason | None:
    """The user's last message is in a language that the local model is known not to speak."""
    known = outlook.settings.local_languages or outlook.local.languages
    texts = [message.content for message in outlook.request.messages if message.role == "user"]
    if not known or not texts or is_covered(texts[-1], known):
        return None
    return Reason(code="language", is_hard=True)


def queue_too_long(outlook: Outlook) -> Reason | None:
    """Too many requests wait already."""
    n, most = outlook.status.n_queued, outlook.settings.queue_length
    if n < most:
        return None
    return Reason(code="queue", signals={"n_queued": float(n), "queue_length": float(most)})


def kv_cache_full(outlook: Outlook) -> Reason | None:
    """The running answers leave no KV cells for this prompt, and others wait for them already.

    Cells of finished conversations do not count: they are given up when somebody needs them.
    """
    n, n_kv = outlook.n_prompt_tokens, outlook.local.n_kv
    if n is None or not n_kv or not outlook.status.n_queued:
        return None
    held = sum(slot.n_tokens for slot in outlook.status.slots if slot.state != "idle")
    if held + n + outlook.room_wanted <= n_kv:
        return None
    return Reason(code="kv_full", signals={"n_kv_held": float(held), "n_kv": float(n_kv)})


def device_pressed(outlook: Outlook) -> Reason | None:
    """Little memory, much heat or a low battery at this moment."""
    if outlook.device is None:
        return None
    return DevicePressure(outlook.settings).step(outlook.device, dwell=1)


POLICIES: tuple[Policy, ...] = (
    matches_rule,
    worker_gone,
    prompt_too_long,
    tools_unusable,
    language_unknown,
    queue_too_long,
    kv_cache_full,
    device_pressed,
)
"""In the order in which they are asked: the user's own rules, then what cannot work at all."""

WITH_PROMPT: tuple[Policy, ...] = (prompt_too_long, kv_cache_full)
"""Asked again once the engine has said how long the prompt is."""


def first_reason(outlook: Outlook, policies: Iterable[Policy] = POLICIES) -> Reason | None:
    """The first reason of a policy that is switched on."""
    for policy in policies:
        reason = policy(outlook)
        if reason is not None and outlook.settings.is_on(reason.code):
            return reason
    return None
