"""Reasons that come from nothing coming: each state of an answer allows its own wait."""

from __future__ import annotations

from spillover.cloud_fallback.policy.reason import CapacityCode, Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals


def silent_too_long(signals: Signals, settings: PolicySettings, now: float) -> Reason | None:
    """Whether nothing has come for longer than this moment of the answer allows."""
    since, longest, code = _wait(signals, settings)
    waited = now - since
    if waited < longest or not settings.is_on(code):
        return None
    return Reason(code=code, signals={"waited_s": waited, "limit_s": longest})


def silent_until(signals: Signals, settings: PolicySettings) -> float | None:
    """The clock time at which silent_too_long() becomes true; None: never."""
    since, longest, code = _wait(signals, settings)
    return since + longest if settings.is_on(code) else None


def shortest_wait(settings: PolicySettings) -> float | None:
    """The shortest of all silences that count; None: none does."""
    limits: dict[CapacityCode, float] = {
        "queue": settings.queue_s,
        "ttft": settings.first_token_s,
        "kv_full": settings.stall_s,
        "slow": settings.stall_s,
    }
    return min((limit for code, limit in limits.items() if settings.is_on(code)), default=None)


def _wait(signals: Signals, settings: PolicySettings) -> tuple[float, float, CapacityCode]:
    """Since when it waits, for how long it may, and what it waits for."""
    since = signals.waits_since
    if since is not None:
        if signals.preempted:
            return since, settings.stall_s, "kv_full"
        return since, settings.queue_s, "queue"
    if signals.last_token_at is None:
        return signals.prefill_since or signals.started_at, settings.first_token_s, "ttft"
    return signals.last_token_at, settings.stall_s, "slow"
