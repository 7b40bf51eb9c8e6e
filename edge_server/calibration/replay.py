"""Plays recorded answers through the policies, without a model and without waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from spillover.cloud_fallback.policy.handoff_rate import HandoffRate
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.edge_server.calibration.trace import Trace
from spillover.runtime.events import Delta, Finished


class Decision(Struct, frozen=True, kw_only=True):
    """What the policies would have done with one recorded answer."""

    id: str
    wrong: bool | None = None
    reason: Reason | None = None
    """None: it would have stayed local."""
    at_token: int | None = None
    """Tokens until then; None: it stayed local."""
    at_end: bool = False
    """Decided after the answer had ended by itself."""
    n_tokens: int
    n_held: int
    """Tokens that were held back, for a while or for good."""
    score: float | None = None
    """The highest P(wrong) that counted."""


def replay(
    trace: Trace,
    settings: PolicySettings,
    local: LocalModel | None = None,
    rate: HandoffRate | None = None,
) -> Decision:
    """The same trace, settings and calibration always give the same decision; with *rate*, the same
    traces in the same order do."""
    now = 0.0
    watch = Watch(
        settings,
        trace.request,
        clock=lambda: now,
        on_trigger=lambda reason: None,
        local=local,
        rate=rate,
    )
    reason, at_end, n_held = None, False, 0
    for elapsed_s, event in trace.events():
        deadline = watch.deadline()
        if deadline is not None and elapsed_s > deadline:
            now = deadline
            reason = watch.on_silence()
            if reason is not None:
                break
        now = elapsed_s
        if isinstance(event, Finished):
            reason, at_end = watch.finished(event), True
            break
        verdict = watch.see(event)
        if verdict == "handoff":
            reason = watch.reason
            break
        if verdict == "hold" and isinstance(event, Delta):
            n_held += len(event.token_ids)
    watch.learn()
    return Decision(
        id=trace.id,
        wrong=trace.wrong,
        reason=reason,
        at_token=None if reason is None else watch.signals.n_tokens,
        at_end=at_end and reason is not None,
        n_tokens=trace.n_tokens,
        n_held=n_held,
        score=watch.score,
    )


class Summary(Struct, frozen=True, kw_only=True):
    """What the policies would have done with many answers."""

    n_answers: int
    n_handed_over: int
    by_reason: dict[str, int]
    n_wrong: int | None = None
    """Of the labelled answers; None: no answer has a label."""
    wrong_caught: int | None = None
    right_disturbed: int | None = None
    n_held_tokens: int
    n_tokens: int


def summary(decisions: Iterable[Decision]) -> Summary:
    """Counts over all decisions."""
    found = list(decisions)
    handed_over = [decision for decision in found if decision.reason is not None]
    codes = Counter(decision.reason.code for decision in found if decision.reason is not None)
    labelled = any(decision.wrong is not None for decision in found)
    return Summary(
        n_answers=len(found),
        n_handed_over=len(handed_over),
        by_reason=dict(sorted(codes.items())),
        n_wrong=sum(d.wrong is True for d in found) if labelled else None,
        wrong_caught=sum(d.wrong is True for d in handed_over) if labelled else None,
        right_disturbed=sum(d.wrong is False for d in handed_over) if labelled else None,
        n_held_tokens=sum(decision.n_held for decision in found),
        n_tokens=sum(decision.n_tokens for decision in found),
    )
