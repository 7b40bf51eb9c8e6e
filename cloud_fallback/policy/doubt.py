"""Judges in windows how likely an answer is to be wrong, and what follows from that."""

from __future__ import annotations

from msgspec import Struct

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals


class DoubtReading(Struct, frozen=True, kw_only=True):
    """How likely a running answer is to be wrong, and what follows from it."""

    p_wrong: float | None
    """Of the last window; None: unknown."""
    hold: float
    """From this P(wrong) on, text is held back."""
    enter: float
    """From this P(wrong) on, an answer of which nothing has been shown is handed over."""


MIN_TOKENS = 4
"""P(wrong) is unknown for fewer tokens than this."""
_TYPICAL_CHARS = 500
_WINDOW, _FIRST_WINDOW, _FIRST_TOKENS = 8, 4, 16


def tokens_to_next_window(n_tokens: int) -> int:
    """Windows are shorter at the start, so that short answers have several."""
    return _WINDOW if n_tokens >= _FIRST_TOKENS else _FIRST_WINDOW


class Doubt:
    """A fold over the windows of one answer.

    P(wrong) comes from the *calibration*, and is unknown without one.
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
        """The P(wrong) from which an answer is handed over, if nothing of it has been shown."""
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

    def needed(self, n_shown_chars: int) -> float:
        """The P(wrong) that is worth a handoff once so much of the text has been shown.

        What another writer can still make right is the rest, taken to be as long as most answers
        are; what a handoff costs stays the same. So the odds must rise with the text shown.
        """
        odds = self.enter * (1.0 + n_shown_chars / _TYPICAL_CHARS)
        return odds / (odds + 1.0 - self.enter)

    @property
    def reading(self) -> DoubtReading:
        return DoubtReading(p_wrong=self.p_wrong, hold=self._hold, enter=self.enter)

    @property
    def score(self) -> float | None:
        """How doubtful the answer was; None: unknown."""
        return self.p_wrong if self.highest is None else self.highest

    def _p_wrong(self, signals: Signals) -> float | None:
        # Doubt is expected while a model reasons.
        is_early = signals.track.n < MIN_TOKENS or signals.track is signals.reasoning
        if is_early or self._calibration is None:
            return None
        return self._calibration.p_wrong(signals.features())
