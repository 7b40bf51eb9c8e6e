"""Judges in windows how likely an answer is to be wrong, and what follows from that."""

from __future__ import annotations

import math

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals

MIN_TOKENS = 4
"""P(wrong) is unknown for fewer tokens than this."""
_WINDOW, _FIRST_WINDOW, _FIRST_TOKENS = 8, 4, 16


def tokens_to_next_window(n_tokens: int) -> int:
    """Windows are shorter at the start, so that short answers have several."""
    return _WINDOW if n_tokens >= _FIRST_TOKENS else _FIRST_WINDOW


class Doubt:
    """A fold over the windows of one answer.

    P(wrong) comes from the model's *calibration*, or from raw confidence if it has none.
    *threshold* is what the handoff-rate target derives from this device's latest answers; None: the
    threshold in the settings. A window with an unknown P(wrong) does not count.
    """

    def __init__(
        self,
        settings: PolicySettings,
        calibration: Calibration | None = None,
        threshold: float | None = None,
    ) -> None:
        self._settings = settings
        self._calibration = calibration
        self._last: list[float] = []
        self.enter = settings.p_wrong_enter if threshold is None else threshold
        """The P(wrong) from which an answer is handed over."""
        share = self.enter / settings.p_wrong_enter if settings.p_wrong_enter > 0 else 1.0
        self._hold = min(settings.p_wrong_hold * share, self.enter)
        self.forget = min(settings.p_wrong_forget * share, self.enter)
        """Below this the doubt has ended. Values between the thresholds change nothing."""
        self.p_wrong: float | None = None
        """P(wrong) of the last window; None: unknown."""
        self.is_raised = False
        """P(wrong) has reached p_wrong_hold and has not fallen below *forget* again."""
        self.highest: float | None = None
        """The highest value that *confidence_dwell* windows in a row reached: the highest threshold
        that would have handed this answer over."""

    def judge(self, signals: Signals) -> None:
        """Set *p_wrong* for the answer so far, which is not a window."""
        self.p_wrong = self._p_wrong(signals)

    def add_window(self, signals: Signals) -> None:
        """Judge one more window."""
        self.judge(signals)
        p_wrong, dwell = self.p_wrong, self._settings.confidence_dwell
        if p_wrong is None:
            return
        if p_wrong >= self._hold:
            self.is_raised = True
        elif p_wrong < self.forget:
            self.is_raised = False
        self._last = [*self._last, p_wrong][-dwell:]
        if len(self._last) == dwell:
            reached = min(self._last)
            self.highest = reached if self.highest is None else max(self.highest, reached)

    @property
    def score(self) -> float | None:
        """How doubtful the answer was; None: unknown."""
        return self.p_wrong if self.highest is None else self.highest

    def _p_wrong(self, signals: Signals) -> float | None:
        # Doubt is expected while a model reasons.
        if signals.track.n < MIN_TOKENS or signals.track is signals.reasoning:
            return None
        if self._calibration is not None:
            return self._calibration.p_wrong(signals.features())
        return self._from_confidence(signals)

    def _from_confidence(self, signals: Signals) -> float:
        """A value on the scale of P(wrong), though not a probability: p_wrong_enter where raw
        confidence reaches its own threshold."""
        settings, track = self._settings, signals.track
        worst = max(
            _share(track.group_mean, settings.raw_group_low),
            _share(track.low_quantile, settings.raw_quantile_low),
        )
        # It rises without bound, so that a handoff-rate target can separate the worst from the bad.
        return 1.0 - math.pow(1.0 - settings.p_wrong_enter, worst)


def _share(value: float, limit: float) -> float:
    return value / limit if limit < 0.0 else 0.0
