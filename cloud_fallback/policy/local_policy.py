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
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import NO_FACTS, ModelFacts, PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.engine import ModelCard
from spillover.runtime.request import GenerationRequest

DEFAULT_TARGET = 0.5
"""Most answers that low confidence takes if the owner has set no rate."""
UNKNOWN_LEVEL_TARGET = 0.1
"""The same for a model of whose answers no calibration has seen any. While a doubtful answer is no
likelier to be right than another, this is also the largest share of right answers it takes."""


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
        key = fingerprint(card)
        own = find_calibration(key, data_dir)
        can_call = own.can_call_tools if own else None
        calibration = own or pooled_calibration(card.n_params)
        self.local = LocalModel(
            n_ctx=card.n_ctx,
            n_kv=card.n_kv,
            languages=(own and own.languages) or facts.languages,
            can_call_tools=facts.can_call_tools if can_call is None else can_call,
            calibration=calibration,
        )
        knows_level = calibration is not None and calibration.knows_level(key)
        self._rate = rate_limit(settings, key, data_dir, knows_level=knows_level)

    def watch(
        self,
        request: GenerationRequest,
        *,
        clock: Callable[[], float],
        on_trigger: Callable[[Reason], None],
    ) -> Watch:
        """A watch over one local leg; call its learn() after the leg."""
        return Watch(
            self.settings,
            request,
            clock=clock,
            on_trigger=on_trigger,
            local=self.local,
            rate=self._rate,
        )

    def close(self) -> None:
        """Save what has been learned."""
        if self._rate:
            self._rate.flush()


def rate_limit(
    settings: PolicySettings, key: str, data_dir: Path, *, knows_level: bool
) -> HandoffRate:
    """The limit for a model with the fingerprint *key*, by the owner's target or the default ones.
    *knows_level*: see Calibration.knows_level."""
    target = settings.handoff_rate_target
    if target is None:
        # What is only probable may not send everything away, should the probability be wrong.
        return HandoffRate(
            key,
            DEFAULT_TARGET if knows_level else UNKNOWN_LEVEL_TARGET,
            data_dir,
            limited=frozenset(("low_confidence",)),
            least=settings.p_wrong_enter,
            is_generous=knows_level,
        )
    # Where the level is known, an answer that is probably right stays local whatever the rate.
    return HandoffRate(key, target, data_dir, least=0.5 if knows_level else 0.0)
