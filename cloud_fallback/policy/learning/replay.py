"""Plays recorded answers through the policies, without a model and without waiting."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from spillover.cloud_fallback.policy.learning.trace import Trace
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.events import Delta, Finished


class Decision(Struct, frozen=True, kw_only=True):
    """What the policies would have done with one recorded answer."""

    id: str
    wrong: bool | None = None
    reason: Reason | None = None
    """None: it would have stayed local."""
    at_token: int | None = None
    """Tokens that had come; None: it stayed local."""
    at_end: bool = False
    """Decided when the answer had ended by itself."""
    n_tokens: int
    n_held: int
    """Tokens that were kept back for a while, or for good."""
    score: float | None = None
    """The highest P(wrong) that counted."""


def replay(trace: Trace, settings: PolicySettings, local: LocalModel | None = None) -> Decision:
    """The same trace, settings and calibration always give the same decision."""
    return _Player(trace, settings, local or LocalModel()).play()


class _Player:
    def __init__(self, trace: Trace, settings: PolicySettings, local: LocalModel) -> None:
        self._trace = trace
        self._now = 0.0
        self._n_held = 0
        self._watch = Watch(
            settings,
            trace.request,
            clock=lambda: self._now,
            on_trigger=lambda reason: None,
            local=local,
        )

    def play(self) -> Decision:
        watch = self._watch
        for elapsed_s, event in self._trace.events():
            deadline = watch.deadline()
            if deadline is not None and elapsed_s > deadline:
                self._now = deadline
                reason = watch.on_silence()
                if reason is not None:
                    return self._decision(reason)
            self._now = elapsed_s
            if isinstance(event, Finished):
                return self._decision(watch.finished(event), at_end=True)
            verdict = watch.see(event)
            if verdict == "handoff":
                return self._decision(watch.reason)
            if verdict == "hold" and isinstance(event, Delta):
                self._n_held += len(event.token_ids)
        raise AssertionError("a trace ends with Finished")

    def _decision(self, reason: Reason | None, *, at_end: bool = False) -> Decision:
        signals = self._watch.signals
        return Decision(
            id=self._trace.id,
            wrong=self._trace.wrong,
            reason=reason,
            at_token=None if reason is None else signals.n_tokens,
            at_end=at_end and reason is not None,
            n_tokens=self._trace.n_tokens,
            n_held=self._n_held,
            score=self._watch.score,
        )


class Summary(Struct, frozen=True, kw_only=True):
    """What the policies would have done with many answers."""

    n_answers: int
    n_handed_over: int
    by_reason: dict[str, int]
    n_wrong: int | None = None
    """Of those with a label; None: no answer has one."""
    wrong_caught: int | None = None
    right_disturbed: int | None = None
    n_held_tokens: int
    n_tokens: int


def summary(decisions: Iterable[Decision]) -> Summary:
    """Counts over all decisions."""
    found = list(decisions)
    given = [decision for decision in found if decision.reason is not None]
    by_reason: dict[str, int] = {}
    for decision in given:
        assert decision.reason is not None
        by_reason[decision.reason.code] = by_reason.get(decision.reason.code, 0) + 1
    labelled = any(decision.wrong is not None for decision in found)
    return Summary(
        n_answers=len(found),
        n_handed_over=len(given),
        by_reason=dict(sorted(by_reason.items())),
        n_wrong=sum(d.wrong is True for d in found) if labelled else None,
        wrong_caught=sum(d.wrong is True for d in given) if labelled else None,
        right_disturbed=sum(d.wrong is False for d in given) if labelled else None,
        n_held_tokens=sum(decision.n_held for decision in found),
        n_tokens=sum(decision.n_tokens for decision in found),
    )
