"""The policies of one local model, for all its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spillover.cloud_fallback.policy import rules
from spillover.cloud_fallback.policy.calibration_store import CalibrationStore, fingerprint
from spillover.cloud_fallback.policy.judge import Judge
from spillover.cloud_fallback.policy.local_model import local_model
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.recent_scores import RecentScores
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.engine import ModelCard
from spillover.runtime.request import GenerationRequest


class LocalPolicy:
    """Settings, calibration and recent scores of a loaded model. Any thread may use it.

    InvalidRequest when a rule of the settings has a pattern that is none.
    """

    def __init__(
        self, settings: PolicySettings, card: ModelCard, *, data_dir: Path | None = None
    ) -> None:
        rules.check(settings)
        self.settings = settings
        self.local = local_model(card, CalibrationStore(data_dir).find(card))
        self._scores = RecentScores(fingerprint(card), data_dir)

    def watch(
        self,
        request: GenerationRequest,
        *,
        clock: Callable[[], float],
        on_trigger: Callable[[Reason], None],
    ) -> Watch:
        """A watch over one local leg; give it to learn() when the leg is over."""
        return Watch(
            self.settings,
            request,
            clock=clock,
            on_trigger=on_trigger,
            local=self.local,
            judge=Judge(self.settings, self.local.calibration, self._threshold()),
        )

    def _threshold(self) -> float | None:
        rate = self.settings.handoff_rate_target
        found = None if rate is None else self._scores.threshold(rate)
        if found is None or self.local.calibration is None:
            return found
        # A probability means something: what is likely right stays here, whatever the rate.
        return max(found, self.settings.p_wrong_forget)

    def learn(self, watch: Watch) -> None:
        """Remember how sure the model was of the leg that *watch* has seen."""
        if self.settings.handoff_rate_target is not None and watch.score is not None:
            self._scores.add(watch.score)

    def close(self) -> None:
        """Write what has been remembered."""
        self._scores.flush()
