"""Policies that look at an answer while it is made. Each is a pure function of the signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from spillover.cloud_fallback.policy.reason import Reason, ReasonCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals

Policy: TypeAlias = Callable[[Signals, PolicySettings], Reason | None]


def leaks_template(signals: Signals, settings: PolicySettings) -> Reason | None:
    """Control tokens of the chat template stand in the text."""
    place = signals.leaks.found_at
    return None if place is None else Reason(code="template_leak", is_hard=True, keep_chars=place)


def breaks_form(signals: Signals, settings: PolicySettings) -> Reason | None:
    """JSON was asked for, and the text (or a tool call's arguments) is no beginning of any."""
    place = signals.broken_at
    if place is not None:
        return Reason(code="schema", is_hard=True, keep_chars=place)
    for call in signals.calls.values():
        if call.error_at is not None:
            return Reason(code="schema", is_hard=True, keep_chars=0)
    return None


def goes_round(signals: Signals, settings: PolicySettings) -> Reason | None:
    """The answer repeats itself; what comes before the second round is kept."""
    by_nature = signals.track is signals.code or signals.json is not None
    loop = signals.loops.find(signals.text_end, repeats_by_nature=by_nature)
    if loop is None:
        return None
    return Reason(
        code="repetition",
        is_hard=True,
        signals={
            "period": float(loop.period),
            "n_tokens": float(loop.n_tokens),
            "copies": loop.copies,
        },
        keep_chars=loop.keep_chars,
    )


def in_wrong_script(signals: Signals, settings: PolicySettings) -> Reason | None:
    """The answer went over to a script that the conversation does not use."""
    place = signals.scripts.found_at
    if place is None:
        return None
    limit = float(settings.foreign_letters)
    return Reason(
        code="wrong_script", is_hard=True, signals={"foreign_letters": limit}, keep_chars=place
    )


def refuses(signals: Signals, settings: PolicySettings) -> Reason | None:
    """The answer declines to answer; nothing of it is worth keeping."""
    return Reason(code="refusal", is_hard=True, keep_chars=0) if signals.refusals.found else None


def decodes_slowly(signals: Signals, settings: PolicySettings) -> Reason | None:
    """Fewer tokens per second than the floor."""
    rate = signals.rate
    if rate is None or rate >= settings.decode_floor:
        return None
    return Reason(
        code="slow", signals={"tokens_per_s": rate, "decode_floor": settings.decode_floor}
    )


CODES: dict[Policy, ReasonCode] = {
    leaks_template: "template_leak",
    breaks_form: "schema",
    goes_round: "repetition",
    in_wrong_script: "wrong_script",
    refuses: "refusal",
}
HARD = tuple(CODES)
"""Asked at every event that brings text."""
