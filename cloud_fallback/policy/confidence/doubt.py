"""Hysteresis for P(wrong): when to hold text back, when to hand over, when to forget."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Mood: TypeAlias = Literal["calm", "doubt", "lost"]


class Limits(Struct, frozen=True, kw_only=True):
    """hold, forget <= enter: what lies in between changes nothing."""

    hold: float
    enter: float
    forget: float
    dwell: int


class Doubt:
    """A fold over P(wrong), one value a window. Unknown (None, NaN) is never low confidence: it
    counts as no window at all."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.mood: Mood = "calm"
        self.highest: float | None = None
        """The highest value that *dwell* windows in a row reached: what the threshold would have
        had to be to hand this answer over."""
        self._last: list[float] = []
        self._n_over = 0

    def step(self, p_wrong: float | None) -> Mood:
        if p_wrong is None or p_wrong != p_wrong:
            return self.mood
        self._note(p_wrong)
        limits = self.limits
        if p_wrong >= limits.enter:
            self._n_over += 1
        elif p_wrong < limits.forget:
            self._n_over = 0
        if self._n_over >= limits.dwell:
            self.mood = "lost"
        elif p_wrong >= limits.hold:
            self.mood = "doubt"
        elif p_wrong < limits.forget:
            self.mood = "calm"
        return self.mood

    def _note(self, p_wrong: float) -> None:
        self._last = [*self._last, p_wrong][-self.limits.dwell :]
        if len(self._last) == self.limits.dwell:
            reached = min(self._last)
            self.highest = reached if self.highest is None else max(self.highest, reached)
