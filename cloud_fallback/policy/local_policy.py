"""The policies of one local model, for all its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import platformdirs

from spillover.cloud_fallback.policy.calibration import (
    find_calibration,
    fingerprint,
    pooled_calibration,
)
from spillover.cloud_fallback.policy.handoff_rate import HandoffRate
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.prompt import check_rules
from spillover.cloud_fallback.policy.reason import QUALITY, Reason
from spillover.cloud_fallback.policy.settings import NO_FACTS, ModelFacts, PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.engine import ModelCard
from spillover.runtime.request import GenerationRequest

DEFAULT_TARGET = 0.5
"""Most answers that low confidence takes if the owner has set no rate."""


class LocalPolicy:
    """Settings, calibration and handoff rate of a model. Any thread may use it. *card* None: it is
    still loading, so only *facts* are known of it.

    Raises InvalidRequest if the pattern of a rule is invalid.
    """

    def __init__(
        self,
        settings: PolicySettings,
        card: ModelCard | None,
        *,
        facts: ModelFacts = NO_FACTS,
        data_dir: Path | None = None,
    ) -> None:
        check_rules(settings)
        self.settings = settings
        self.local = LocalModel(languages=facts.languages, can_call_tools=facts.can_call_tools)
        self._rate: HandoffRate | None = None
        if card is not None:
            self._know(card, facts, data_dir)

    def _know(self, card: ModelCard, facts: ModelFacts, data_dir: Path | None) -> None:
        settings = self.settings
        data_dir = data_dir or platformdirs.user_data_path("spillover", appauthor=False)
        own = find_calibration(fingerprint(card), data_dir)
        can_call = own.can_call_tools if own else None
        self.local = LocalModel(
            n_ctx=card.n_ctx,
            n_kv=card.n_kv,
            languages=(own and own.languages) or facts.languages,
            can_call_tools=facts.can_call_tools if can_call is None else can_call,
            calibration=own or pooled_calibration(card.n_params),
        )
        self._rate = _limit(settings, fingerprint(card), data_dir, has_own=own is not None)

    def watch(
        self,
        request: GenerationRequest,
        *,
        clock: Callable[[], float],
        on_trigger: Callable[[Reason], None],
    ) -> Watch:
        """A watch over one local leg; pass it to learn() after the leg."""
        return Watch(
            self.settings,
            request,
            clock=clock,
            on_trigger=on_trigger,
            local=self.local,
            rate=self._rate,
        )

    def learn(self, watch: Watch) -> None:
        """Learn from the leg that *watch* has seen to its end."""
        reason = watch.reason
        if self._rate and (reason is None or reason.code in QUALITY):
            self._rate.add(watch.score, is_doubtful=watch.is_doubtful, taken=watch.took)

    def close(self) -> None:
        """Save what has been learned."""
        if self._rate:
            self._rate.flush()


def _limit(settings: PolicySettings, key: str, data_dir: Path, *, has_own: bool) -> HandoffRate:
    target = settings.handoff_rate_target
    if target is None:
        # What is only probable may not send everything away, should the probability be wrong.
        return HandoffRate(
            key,
            DEFAULT_TARGET,
            data_dir,
            limited=frozenset(("low_confidence",)),
            least=settings.p_wrong_enter,
            is_generous=True,
        )
    # By its own calibration, an answer that is probably right stays local whatever the rate. The
    # pooled one knows which answers are more doubtful, but not how doubtful.
    return HandoffRate(key, target, data_dir, least=0.5 if has_own else 0.0)
