"""From signals to P(wrong), and to the thresholds that it is compared with."""

from __future__ import annotations

import math

from spillover.cloud_fallback.policy.confidence.calibration import Calibration
from spillover.cloud_fallback.policy.confidence.doubt import Limits
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals

LEAST_WORDS = 4
"""Fewer tokens than this say nothing at all."""
_STRIDE, _FIRST_STRIDE, _FIRST_TOKENS = 8, 4, 16


def stride(n_tokens: int) -> int:
    """Tokens until the next window; fewer at the start, so that short answers have several."""
    return _STRIDE if n_tokens >= _FIRST_TOKENS else _FIRST_STRIDE


class Judge:
    """Judges with a model's calibration, or with raw confidence where there is none.

    *threshold* is what the handoff-rate target makes of this device's last answers; None: the
    thresholds of the settings.
    """

    def __init__(
        self,
        settings: PolicySettings,
        calibration: Calibration | None = None,
        threshold: float | None = None,
    ) -> None:
        self._settings = settings
        self._calibration = calibration
        self._threshold = threshold

    def limits(self) -> Limits:
        settings = self._settings
        enter = settings.p_wrong_enter if self._threshold is None else self._threshold
        share = enter / settings.p_wrong_enter if settings.p_wrong_enter > 0 else 1.0
        return Limits(
            hold=min(settings.p_wrong_hold * share, enter),
            enter=enter,
            forget=min(settings.p_wrong_forget * share, enter),
            dwell=settings.confidence_dwell,
        )

    def p_wrong(self, signals: Signals) -> float | None:
        """P(wrong) of the answer so far; None: not known (yet). What a model thinks before it
        answers is not judged: it is meant to be in doubt."""
        if signals.track.n < LEAST_WORDS or signals.track is signals.reasoning:
            return None
        if self._calibration is not None:
            return self._calibration.p_wrong(signals.features())
        return self._raw(signals)

    def _raw(self, signals: Signals) -> float:
        """No probability, but on the same scale: p_wrong_enter where raw confidence reaches its
        own threshold."""
        settings, track = self._settings, signals.track
        worst = max(
            _share(track.group_mean, settings.raw_group_low),
            _share(track.low_quantile, settings.raw_quantile_low),
        )
        # Rising without end, so that a handoff-rate target can tell the worst from the bad.
        return 1.0 - math.pow(1.0 - settings.p_wrong_enter, worst)

    def reason(self, p_wrong: float, limits: Limits, keep_chars: int | None) -> Reason:
        signals = {"p_wrong": p_wrong, "threshold": limits.enter}
        return Reason(code="low_confidence", signals=signals, keep_chars=keep_chars)


def _share(value: float, limit: float) -> float:
    return value / limit if limit < 0.0 else 0.0
